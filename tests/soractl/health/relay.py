"""relay.py HOST PORT UP UP_JITTER DOWN DOWN_JITTER: a ProxyCommand that delays each way, in ms."""

import asyncio
import random
import socket
import sys


async def carry(read, write, base_ms, jitter_ms):
    """Bytes in their order, each piece as late as its turn and its own delay ask."""
    queue = asyncio.Queue()
    loop = asyncio.get_running_loop()

    async def deliver():
        while (item := await queue.get()) is not None:
            due, data = item
            await asyncio.sleep(max(0.0, due - loop.time()))
            write(data)

    task = asyncio.create_task(deliver())
    while data := await read(65536):
        await queue.put((loop.time() + (base_ms + random.uniform(0, jitter_ms)) / 1000, data))
    await queue.put(None)
    await task


async def main(host, port, *delays):
    up, up_jitter, down, down_jitter = map(float, delays)
    sock = socket.create_connection((host, int(port)))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reader, writer = await asyncio.open_connection(sock=sock)
    here = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(here), sys.stdin)

    def to_stdout(data):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    ways = [
        asyncio.create_task(carry(here.read, writer.write, up, up_jitter)),
        asyncio.create_task(carry(reader.read, to_stdout, down, down_jitter)),
    ]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)


asyncio.run(main(*sys.argv[1:]))
