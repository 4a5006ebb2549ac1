# A fresh machine needs Python 3.11 or newer (with venv and pip) and make; the rest is installed in .venv.
PYTHON ?= python3
BIN := .venv/bin
JAVA := $(shell command -v java)
CHROMIUM := $(or $(RETL_TEST_CHROMIUM),$(shell command -v chromium || command -v google-chrome))
# Where there is room, files of tests are in memory: each commit waits for the disk, and no test cuts the power.
IN_MEMORY := $(shell test -w /dev/shm && test "$$(df -Pk /dev/shm | awk 'END {print $$4}')" -gt 6000000 && echo TMPDIR=/dev/shm)
# Images of containers often set this, and then each start compiles the tests, and what pytest rewrites, anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-all test-thorough test-servers test-oldest test-encryption test-spark test-snowflake test-bigquery lint bench bench-10m bench-engines bench-spark torture docs pictures clean

help:
	@echo "make demo             run the example's users sync against a local Segment, whose page opens"
	@echo "make test             the tests that are quick and need no server: each promise once"
	@echo "make test-all         the others: RETL_TEST_MYSQL_URL=mysql://user:password@host/ make test-all"
	@echo "make test-thorough    of these, what needs no environment of its own"
	@echo "make test-servers     of these, what has a server of its own: Spark, Snowflake, BigQuery; and encrypted states"
	@echo "make test-oldest      whatever talks to DuckDB, with the oldest one that retl supports"
	@echo "make test-encryption  encrypted states, with a DuckDB whose extension httpfs is a package of PyPI"
	@echo "make test-spark       Spark, on a server of its own, and Databricks' driver; needs a Java of version 17 or newer"
	@echo "make test-snowflake   Snowflake's driver, against a server that takes itself for Snowflake"
	@echo "make test-bigquery    BigQuery's driver, against a server that takes itself for BigQuery"
	@echo "make lint             style and types"
	@echo "make bench            how fast, beside other tools, into docs/benchmarks.md; half an hour"
	@echo "make bench-10m        the same with ten million users"
	@echo "make bench-engines    where rows are compared: a million of them in a Postgres, or here; ROWS=10000000 are more"
	@echo "make bench-spark      the same in a Spark"
	@echo "make torture          runs under faults for two minutes, into docs/torture.md; SEED=1 SECONDS=60 are others"
	@echo "make pictures         run a shop, and take the pictures of its report and of the sandbox; needs a Chromium"
	@echo "make docs             write the generated pages of docs/ anew"
	@echo "make clean            delete .venv, the example's states, and what was rehearsed"

# Its state goes to a folder of its own, so that the demo starts from nothing each time. It ends with the address
# of the sandbox's page, and how that ends.
demo: .venv/retl
	@echo "what you can do next:"
	@echo "  . .venv/bin/activate       # puts retl on the path"
	@echo "  retl plan users --sandbox  # what a run would send, call by call"
	@echo "  retl init shop             # a project of your own"
	@echo
	RETL_STATE_DIR=$$(mktemp -d) $(BIN)/retl run syncs/users.yml --sandbox --open

test: .venv/test
	$(IN_MEMORY) $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not (slow or thorough or browser or spark or snowflake or bigquery)"

# What `make test` leaves out.
test-all: test-thorough test-servers

# Tests that show more of what a quicker one shows, processes that are killed, a longer search for a sync that breaks a
# promise, report and sandbox in a Chromium, and MySQL, at a URL whose user may make and drop databases and functions;
# .ci/run starts such a server.
test-thorough: .venv/browser
	@test -n "$(CHROMIUM)" || echo "#### The pages of report and sandbox are NOT tested: there is no Chromium ####" >&2
	@test -n "$$RETL_TEST_MYSQL_URL" || echo "#### MySQL is NOT tested: set RETL_TEST_MYSQL_URL ####" >&2
	RETL_TEST_EXAMPLES=25 $(IN_MEMORY) $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "slow or thorough or mysql$(if $(CHROMIUM), or browser)"

# Each is one process, with a server and an environment of its own; `make -j 2` has two at a time. Spark takes longest.
test-servers: $(if $(JAVA),test-spark) test-snowflake test-bigquery test-encryption
	@test -n "$(JAVA)" || echo "#### Spark is NOT tested: there is no Java ####" >&2

# Whatever talks to DuckDB, with the oldest that retl supports: each promise once, as `make test` does.
test-oldest: .venv/oldest
	$(IN_MEMORY) .venv/oldest/bin/python -m pytest -q -n 2 --dist worksteal -m "not (slow or thorough)" tests/test_engine.py tests/test_stage.py \
		tests/test_state.py tests/test_migrations.py tests/test_keep.py tests/test_purge.py tests/test_unrendered.py tests/test_deliver.py tests/test_discard.py tests/test_cases.py \
		tests/test_plan.py tests/test_apply.py tests/test_sandbox_store.py tests/test_sandbox_calls.py \
		tests/test_sandbox_queries.py tests/test_sandbox_users.py tests/test_sandbox_chart.py

# DuckDB encrypts with its extension httpfs, which comes from DuckDB's own server, and of some versions from PyPI.
test-encryption: .venv/encryption
	.venv/encryption/bin/python -m pytest -q -p no:bqemulator tests/test_encryption.py

# PySpark brings Spark itself, 400 MB, so it has an environment of its own. Each process has a server of its own, too.
# Databricks' connector is tested there as well: what it says is done by that Spark.
test-spark: .venv/spark
	.venv/spark/bin/python -m pytest -q -m spark tests/test_spark.py tests/test_spark_engine.py tests/test_warehouse.py \
		tests/test_databricks.py tests/test_databricks_engine.py

# The server wants releases of packages that others do not.
test-snowflake: .venv/snowflake
	.venv/snowflake/bin/python -m pytest -q -m snowflake tests/test_snowflake.py tests/test_snowflake_engine.py

# BigQuery's driver finds the server by what is in the environment when its process starts. The server wants one of
# DuckDB's extensions, too, so both share what is installed.
test-bigquery: .venv/encryption
	.venv/encryption/bin/python tests/bigquery_server.py -q -m bigquery tests/test_bigquery.py tests/test_bigquery_engine.py

lint: .venv/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/test
	$(BIN)/python -m bench

bench-10m: .venv/test
	$(BIN)/python -m bench --rows 10000000

bench-engines: .venv/test
	$(BIN)/python -m bench.engines $(or $(ROWS),1000000)

bench-spark: .venv/spark
	.venv/spark/bin/python -m bench.engines $(or $(ROWS),1000000) --warehouse Spark

torture: .venv/test
	$(BIN)/python -m torture --page $(if $(SEED),--seed $(SEED)) $(if $(SECONDS),--seconds $(SECONDS))

docs: .venv/retl
	$(BIN)/python docs/make.py

pictures: .venv/browser
	$(BIN)/python docs/report_picture.py
	$(BIN)/python docs/sandbox_picture.py

clean:
	rm -rf .venv state/*.duckdb* state/sandbox

# An environment inside .venv sees what .venv has, and gets only releases of its own that others do not want: with all
# of its own, each took a minute to install.
define environment
rm -rf $@
$(BIN)/python -m venv $@
$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	>"$$($@/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth"
endef

# Each stamp stands for what is installed in .venv; tests and linters come on top of retl itself.
.venv/retl: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/test: .venv/retl
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[postgres,test]"
	@touch $@

.venv/browser: .venv/test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[browser]"
	@touch $@

.venv/oldest: .venv/test
	$(environment)
	$@/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test]" "duckdb==1.4.*"

.venv/encryption: .venv/test
	$(environment)
	$@/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[bigquery,test]" duckdb-extension-httpfs duckdb-extension-spatial "bqemulator>=1.4,<1.5"

.venv/spark: .venv/test
	$(environment)
	$@/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[databricks,test]" "pyspark[connect]>=4.1,<5"

.venv/snowflake: .venv/test
	$(environment)
	$@/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[snowflake,test]" "fakesnow[server]>=0.12,<0.13" "snowflake-connector-python<5"

.venv/lint: .venv/test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[lint]"
	@touch $@
