"""Has the routes of chats that need no collection: merging and highlights."""
