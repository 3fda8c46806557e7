"""Names of MCP servers, and the conversion of their descriptions and answers."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.types import CallToolResult, ImageContent, TextContent

from lzero.errors import ConfigError
from lzero.tools.mcp_servers import McpSpec, read_specs
from lzero.tools.mcp_servers.specs import fill
from lzero.tools.mcp_servers.words import answer, description, signature, tool_name
from lzero.tools.shapes import plain

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
)
SCHEMAS = st.dictionaries(
    st.sampled_from(
        ("properties", "required", "$defs", "type", "enum", "anyOf", "items", "default", "$ref", "description")
    ),
    JSON,
)


def test_a_command_is_split_as_a_shell_would_and_started_without_one() -> None:
    (spec,) = read_specs("stdio:TOKEN=${GITHUB_TOKEN} LEVEL='two words' npx -y @scope/server-github '/a dir' ; rm")
    assert spec.command == ("npx", "-y", "@scope/server-github", "/a dir", ";", "rm")
    assert spec.environment == {"TOKEN": "${GITHUB_TOKEN}", "LEVEL": "two words"}
    assert spec.name == "server-github"
    filled = fill(spec, {"GITHUB_TOKEN": "ghp_secret"}.get)
    assert filled.values == {"TOKEN": "ghp_secret", "LEVEL": "two words"}
    assert filled.hide("not ghp_secret") == "not ${GITHUB_TOKEN}"
    assert "ghp_secret" not in f"{spec!r} {filled!r}"


def test_a_secret_that_begins_another_does_not_uncover_it() -> None:
    (spec,) = read_specs("stdio:SHORT=${SHORT} LONG=${LONG} server")
    filled = fill(spec, {"SHORT": "secret", "LONG": "secret-and-more"}.get)
    assert filled.hide("secret-and-more, secret") == "${LONG}, ${SHORT}"


def test_a_url_may_have_a_bearer_token() -> None:
    assert read_specs("https://www.example.org/mcp") == (McpSpec(name="example", url="https://www.example.org/mcp"),)
    (spec,) = read_specs("http://127.0.0.1:80/mcp KEY")
    assert fill(spec, {"KEY": "secret-key"}.get).values == {"Authorization": "Bearer secret-key"}


def test_a_token_that_no_header_can_hold_is_refused_and_not_shown() -> None:
    (spec,) = read_specs("http://127.0.0.1:80/mcp KEY")
    with pytest.raises(ConfigError, match="KEY, which contains characters that a header cannot hold") as raised:
        fill(spec, {"KEY": "secret\n-key"}.get)
    assert "secret" not in str(raised.value)


def test_a_file_holds_several_servers(tmp_path: Path) -> None:
    json, toml = tmp_path / "servers.json", tmp_path / "servers.toml"
    json.write_text(
        '{"mcpServers": {"a": {"command": "run", "args": ["x"], "env": {"K": "${K}"}},'
        ' "b": {"type": "http", "url": "http://h/mcp", "headers": {"X": "1"}}}}'
    )
    toml.write_text(
        '[mcpServers.a]\ncommand = "run"\nargs = ["x"]\nenv = { K = "${K}" }\n'
        '[mcpServers.b]\nurl = "http://h/mcp"\nheaders = { X = "1" }\n'
    )
    expected = (
        McpSpec(name="a", command=("run", "x"), environment={"K": "${K}"}),
        McpSpec(name="b", url="http://h/mcp", headers={"X": "1"}),
    )
    assert read_specs(str(json)) == read_specs(str(toml)) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("npx server", "is not an MCP server"),
        ("stdio:", "has no command"),
        ("stdio:A=1", "has no command"),
        ("stdio:run 'x", "No closing quotation"),
        ("https://", "is not an MCP server"),
        ("https://host/mcp ONE TWO", "is not an MCP server"),
        ("https://host/mcp not-a-name", "is not an MCP server"),
        ("/no/such.json", "cannot read the MCP servers in"),
    ],
)
def test_what_names_no_server_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        read_specs(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not valid JSON"),
        ("{}", 'no servers under "mcpServers"'),
        ('{"mcpServers": {"a": 1}}', "Expected `object`, got `int`"),
        ('{"mcpServers": {"a": {}}}', "needs either a command or a url"),
        ('{"mcpServers": {"a": {"command": "x", "url": "http://h"}}}', "either a command or a url"),
        ('{"mcpServers": {"a": {"command": "x", "args": "y"}}}', r"Expected `array`, got `str` - at `\$.args`"),
        ('{"mcpServers": {"a": {"command": "x", "env": {"K": 1}}}}', r"Expected `str`, got `int` - at `\$.env"),
        ('{"mcpServers": {"a": {"command": "x", "cwd": "/"}}}', "unknown field `cwd`"),
        ('{"mcpServers": {"a": {"url": "http://h", "type": "sse"}}}', "Invalid enum value 'sse'"),
        ('{"mcpServers": {"a": {"command": "x", "headers": {"A": "b"}}}}', "takes no headers"),
        ('{"mcpServers": {"a": {"url": "http://h", "env": {"A": "b"}}}}', "takes no environment"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "servers.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_specs(str(file))


@given(st.text(max_size=200), st.text(max_size=40), SCHEMAS, st.none() | SCHEMAS, st.none() | st.text(max_size=300))
def test_any_schema_becomes_a_python_function(
    name: str, server: str, inputs: dict[str, object], outputs: dict[str, object] | None, text: str | None
) -> None:
    own = tool_name(name, server=server, taken={"search"})
    assert own.isidentifier()
    assert own not in ("search", "print", "class")
    shape = signature(inputs, outputs)
    assert all(parameter.isidentifier() and parameter.isascii() for parameter in shape.names)
    assert shape.required <= set(shape.names)
    shown = description(own, shape, text, server=server)
    assert all(character.isprintable() or character in "\n\t" or character.isspace() for character in shown)
    assert "<|" not in shown


def test_a_name_that_is_taken_gets_the_servers_before_it_and_then_a_number() -> None:
    assert tool_name("get", server="git hub", taken=()) == "get"
    assert tool_name("get", server="git hub", taken={"get"}) == "git_hub_get"
    assert tool_name("get", server="git hub", taken={"get", "git_hub_get"}) == "get_2"
    assert tool_name("open", server="files", taken=()) == "files_open"
    assert tool_name("display", server="files", taken=()) == "files_display"


def test_what_no_terminal_and_no_template_should_read_is_written_out() -> None:
    assert plain("a\x1b[0m\u200b\u202e<|end|>\né") == "a\\x1b[0m\\u200b\\u202e< |end| >\né"


def test_answers_are_values_where_the_server_gives_values() -> None:
    text = TextContent(type="text", text='{"result": 3}')
    image = ImageContent(type="image", data="AAAA", mime_type="image/png")
    assert answer(CallToolResult(content=[text], structured_content={"result": 3})) == 3
    assert answer(CallToolResult(content=[text], structured_content={"result": 3, "unit": "m"})) == {
        "result": 3,
        "unit": "m",
    }
    assert answer(CallToolResult(content=[text])) == '{"result": 3}'
    assert answer(CallToolResult(content=[image, text], structured_content={"result": 3})) == (
        '[image image/png, 3 bytes]\n{"result": 3}'
    )
    assert answer(CallToolResult(content=[])) == ""
