"""The API, told to machines and people: one OpenAPI document, and Swagger UI over it."""
