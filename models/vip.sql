-- Customers whose orders are worth 150 and more, whatever the currency.
SELECT o.user_id, u.email, CASE WHEN sum(i.price * i.quantity) >= 500 THEN 'gold' ELSE 'silver' END AS tier
FROM read_csv('data/orders.csv') AS o
JOIN read_csv('data/order_items.csv') AS i USING (order_id)
JOIN read_csv('data/users.csv') AS u USING (user_id)
GROUP BY o.user_id, u.email
HAVING sum(i.price * i.quantity) >= 150
