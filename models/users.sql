SELECT
    user_id, email, phone, first_name, last_name, city, country, language,
    plan, gdpr, email_optin, created_at
FROM read_csv('data/users.csv', types = {'phone': 'VARCHAR'})
