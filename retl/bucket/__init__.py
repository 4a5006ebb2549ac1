"""State files in a bucket of an object store: S3, Google Cloud Storage, Azure Blob Storage."""
