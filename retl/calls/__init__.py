"""From changes to calls: templates, and the SQL that renders them."""
