"""Asyncio drivers: event → machine → effects, and the supervision of both sides."""
