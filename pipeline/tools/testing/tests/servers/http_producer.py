"""A producer over HTTP that repeats whatever has no answer, under the same key: prints the id and durability of each 202."""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor


def submit(n: int) -> str:
    body = {"category": "order", "recipients": [{"email": f"user-{n}@example.com"}], "content": {"body": "b"}}
    headers = {
        "Authorization": "Bearer " + os.environ["CHASQUI_KEY"],
        "Content-Type": "application/json",
        "Idempotency-Key": f"order-{n}",
    }
    url = os.environ["CHASQUI_URL"] + "/v1/notifications"
    until = time.monotonic() + 240
    while True:
        try:
            request = urllib.request.Request(url, json.dumps(body).encode(), headers)
            answer = json.load(urllib.request.urlopen(request, timeout=30))
            return answer["id"] + " " + answer["durability"]
        except urllib.error.HTTPError as refusal:
            # A key that was made a moment ago is not known yet.
            if refusal.code not in (401, 408, 503) or time.monotonic() > until:
                raise
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(0.05)


with ThreadPoolExecutor(8) as pool:
    for line in pool.map(submit, range(int(sys.argv[1]))):
        print(line, flush=True)
