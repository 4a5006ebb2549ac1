-- One row an order, with its products as a list of structs.
WITH items AS (
    SELECT
        order_id,
        sum(price * quantity) AS subtotal,
        list(
            {product_id: product_id, sku: sku, name: name, category: category, price: price, quantity: quantity}
            ORDER BY line
        ) AS products
    FROM read_csv('data/order_items.csv')
    GROUP BY order_id
)

SELECT
    o.order_id, o.user_id, u.email, o.currency, o.ordered_at, o.shipping, o.tax, i.products,
    i.subtotal, i.subtotal AS revenue, i.subtotal + o.shipping + o.tax AS total
FROM read_csv('data/orders.csv') AS o
JOIN items AS i USING (order_id)
JOIN read_csv('data/users.csv') AS u USING (user_id)
