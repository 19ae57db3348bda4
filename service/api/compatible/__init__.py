"""Has the routes of other servers, in their shapes: OpenAI's, text-embeddings-inference's and bert-as-service's."""
