"""Look-ups of hosts with known answers, and requests that are refused."""

from collections.abc import Sequence

import pytest

from lzero.errors import ToolError
from lzero.tools.web import Resolve, WebClient

PUBLIC = "93.184.216.34"


def resolver(*addresses: str) -> Resolve:
    """Return a resolver that gives these addresses to every host."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


async def refused(client: WebClient, url: str) -> str:
    with pytest.raises(ToolError) as raised:
        await client.fetch(url)
    assert raised.value.fault == "agent", raised.value
    return str(raised.value)
