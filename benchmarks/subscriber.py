"""A subscriber as a process: notes when each message came, and answers records with receipts.

    subscriber.py PORT FILE FILTER...

FILE gets one line a message: monotonic time [ns], topic, payload. Ends with its standard input.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

RECEIPT_EVERY_S = 0.5


class Centre:
    """Notes messages on paho's thread; receipts go out on the main one."""

    def __init__(self, port: int, path: Path, filters: list[str]) -> None:
        self._filters = [(each, 1) for each in filters]  # with QoS
        self._file = path.open("wb", buffering=0)
        self._lock = threading.Lock()
        self._held: dict[tuple[str, str, str], set[int]] = {}
        self._upto: dict[tuple[str, str, str], int] = {}
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe(self._filters)
        self._client.on_subscribe = lambda *_: print("subscribed", flush=True)
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def _on_message(
        self, _client: mqtt.Client, _userdata: object, message: mqtt.MQTTMessage
    ) -> None:
        at_ns = time.monotonic_ns()
        self._file.write(b"%d %s %s\n" % (at_ns, message.topic.encode(), message.payload))
        if "/ev/" not in message.topic:
            return
        record = json.loads(message.payload)
        key = (record["source"], record["stream"], record["epoch"])
        with self._lock:
            self._held.setdefault(key, set()).add(record["seq"])

    def send_receipts(self) -> None:
        """Say for each stream up to where everything is held."""
        with self._lock:
            for key, held in self._held.items():
                upto = before = self._upto.get(key, 0)
                while upto + 1 in held:
                    upto += 1
                    held.discard(upto)
                if upto == before:
                    continue
                self._upto[key] = upto
                source, stream, epoch = key
                receipt = json.dumps({"epoch": epoch, "upto": upto, "hash": None})
                self._client.publish(f"{source}/receipt/{stream}", receipt, qos=1, retain=True)


def main() -> None:
    centre = Centre(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
    is_over = threading.Event()

    def watch() -> None:
        sys.stdin.read()
        is_over.set()

    threading.Thread(target=watch, daemon=True).start()
    while not is_over.wait(RECEIPT_EVERY_S):
        centre.send_receipts()


if __name__ == "__main__":
    main()
