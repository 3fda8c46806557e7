"""Each failure of a configured service has a message of its own, and no message shows a key."""

import email.utils
import time
from typing import Any

import pytest
from web_servers import WebServer, json_response, pages, response, serving

from lzero.tools.keys import Secret
from lzero.tools.retry import ServiceError
from lzero.tools.service import Service
from lzero.tools.web import WebClient

pytestmark = pytest.mark.integration


def service_at(server: WebServer, **key: Any) -> Service:
    return Service(name="Test", url=f"{server.url}/", client=WebClient(allow_hosts=[server.host]), **key)


@pytest.mark.parametrize(
    ("status", "headers", "told", "permanent", "retry_after_s"),
    [
        (401, {}, "Test refuses the key in TEST_KEY", True, 0),
        (403, {}, "Test refuses the key in TEST_KEY", True, 0),
        (402, {}, "Test wants to be paid first", True, 0),
        (429, {"retry_after": "7"}, "Test is asked too often", False, 7),
        (429, {"retry_after": "soon"}, "Test is asked too often", False, 0),
        (503, {"retry_after": "3"}, "Test is asked too often", False, 3),
        (500, {}, "Test failed", False, 0),
        (400, {}, "Test failed", True, 0),
        (302, {"location": "/elsewhere"}, "Test failed", True, 0),
    ],
)
async def test_a_services_failures_are_told_apart_and_no_key_shows(
    status: int, headers: dict[str, str], told: str, permanent: bool, retry_after_s: float
) -> None:
    said = json_response({"message": "no: k-123\x1b[31m"}, status=status, **headers)
    async with serving(pages({"/": said})) as server:
        service = service_at(server, key=Secret("k-123"), key_variable="TEST_KEY")
        with pytest.raises(ServiceError, match=told) as raised:
            await service.ask(dict, json={"q": 1})
        assert (raised.value.fault, raised.value.permanent) == ("tool", permanent)
        assert raised.value.retry_after_s == retry_after_s
        assert f"HTTP {status}" in str(raised.value)
        assert "k-123" not in str(raised.value)
        assert "\x1b" not in str(raised.value)
        (request,) = server.requests
        assert (request.method, request.json) == ("POST", {"q": 1})
        assert request.headers["authorization"] == "Bearer k-123"


async def test_a_service_may_ask_for_peace_until_a_date() -> None:
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    async with serving(pages({"/": response(status=429, retry_after=later)})) as server:
        with pytest.raises(ServiceError) as raised:
            await service_at(server).ask(dict)
        assert 90 < raised.value.retry_after_s <= 100


async def test_a_service_at_an_impossible_address_is_no_fault_of_the_agent() -> None:
    with pytest.raises(ServiceError, match=r"Test: .* port 81") as raised:
        await Service(name="Test", url="http://example.org:81/", client=WebClient()).ask(dict)
    assert raised.value.permanent
