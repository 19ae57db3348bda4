"""Has the routes of collections: their items, their map, and chats that they follow."""
