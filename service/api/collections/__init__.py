"""Contains the routes of collections: items, maps and live chats."""
