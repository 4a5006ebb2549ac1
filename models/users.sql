SELECT user_id, email, phone, first_name, last_name, city, country, plan, gdpr, created_at
FROM read_csv('data/users.csv', types = {'phone': 'VARCHAR'})
