"""What a skilled user writes instead of an agent: pymodbus and paho, one task a device.

bare_polling.py BROKER_PORT PERIOD_S DEVICE_PORT...
"""

import asyncio
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from pymodbus.client import AsyncModbusTcpClient


async def watch(publisher: mqtt.Client, name: str, port: int, period_s: float) -> None:
    device = AsyncModbusTcpClient("127.0.0.1", port=port)
    await device.connect()
    loop = asyncio.get_running_loop()
    before, due = None, loop.time()
    while True:
        reply = await device.read_input_registers(16, count=2, device_id=1)
        counter = (reply.registers[0] << 16) + reply.registers[1]
        if before is not None and counter != before:
            publisher.publish(f"bare/{name}", f'{{"counter":{counter}}}', qos=1)
        before = counter
        due = max(due + period_s, loop.time())
        await asyncio.sleep(due - loop.time())


async def main() -> None:
    publisher = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    publisher.connect("127.0.0.1", int(sys.argv[1]))
    publisher.loop_start()
    ports = [int(port) for port in sys.argv[3:]]
    names = [f"lane-{number}" for number in range(len(ports))]
    period_s = float(sys.argv[2])
    devices = zip(names, ports, strict=True)
    await asyncio.gather(*(watch(publisher, name, port, period_s) for name, port in devices))


asyncio.run(main())
