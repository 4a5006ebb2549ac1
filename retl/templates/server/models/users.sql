-- One row for each user. Name your own table and columns here, and in syncs/users.yml.
SELECT user_id, email, plan, city, created_at
FROM users
