"""The report: a page about past runs, in one HTML file that asks no network for anything."""
