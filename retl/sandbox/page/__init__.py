"""The sandbox's page: the calls that arrived, as HTML that the server makes of the store."""
