"""Contains the routes of other servers' APIs: OpenAI's, text-embeddings-inference's and bert-as-service's."""
