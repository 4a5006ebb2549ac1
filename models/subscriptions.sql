SELECT s.subscription_id, s.user_id, u.email, s.plan, s.mrr, s.started_at, s.updated_at
FROM read_csv('data/subscriptions.csv') AS s
JOIN read_csv('data/users.csv') AS u USING (user_id)
