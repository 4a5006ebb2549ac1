"""How Spark reads SQL, and what in a SELECT of it does more than read."""

import re
from dataclasses import replace

from retl.warehouse.query import Grammar

SPARK = Grammar(
    "spark",
    # They call a method of Java's, whatever it does.
    writing_functions=re.compile("java_method|(try_)?reflect", re.IGNORECASE),
    runs_programs=True,
)

DATABRICKS = replace(SPARK, parser="databricks")
