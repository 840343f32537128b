"""Packets through RabbitMQ, by pika's protocol engine on asyncio."""

from chunkq.transport.rabbitmq.options import RabbitMQOptions, frame_max_for
from chunkq.transport.rabbitmq.transport import RabbitMQTransport

__all__ = ["RabbitMQOptions", "RabbitMQTransport", "frame_max_for"]
