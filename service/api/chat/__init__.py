"""Contains the chat routes that need no collection: merging and highlights."""
