-- One row for each user. An embedded DuckDB reads CSV, Parquet and JSON files of the project.
SELECT user_id, email, plan, city, created_at
FROM read_csv('data/users.csv')
