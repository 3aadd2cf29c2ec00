"""A producer of another team, in another language: plain JSON to a NATS subject, and nothing of Chasqui's."""

import asyncio
import json
import sys
import uuid

import nats


async def main(url: str) -> None:
    connection = await nats.connect(url)
    submission = {
        "id": str(uuid.uuid4()),
        "category": "order",
        "recipients": [{"email": "ada@example.com", "locale": "en"}],
        "channels": ["email"],
        "content": {"title": "Your order", "body": "It is on its way."},
    }
    # The acknowledgement means: stored, and never lost from here on.
    await connection.jetstream().publish("notify.submit.normal.shop", json.dumps(submission).encode())
    await connection.close()
    print(submission["id"])


asyncio.run(main(sys.argv[1]))
