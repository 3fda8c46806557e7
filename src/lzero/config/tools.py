"""Keys of the agent's tools."""

from typing import Literal, Self

import pydantic
from pydantic import Field

from lzero.config.base import Count, Section


class ToolsConfig(Section):
    search: Literal["auto", "serper", "exa", "searxng"] = "auto"
    """Service behind `web_search`; auto: SearXNG if search_url is set, else the service whose key is set (SERPER_API_KEY,
    EXA_API_KEY)."""
    search_url: str = ""
    """Address of that service, as http://localhost:8888; empty: its public address."""
    search_results: int = Field(5, ge=1, le=20)
    """Results of a `web_search` that names no number."""
    snippet_chars: Count = 1000
    """Maximum characters of a web result that the agent sees."""
    reader: Literal["local", "jina"] = "local"
    """Converter of pages to Markdown for `read_page`: this machine (extra `web`), or r.jina.ai."""
    reader_url: str = ""
    """Address of your own Jina reader; empty: r.jina.ai."""
    page_tokens: Count = 100_000
    """Maximum tokens of a page that the agent sees (of four characters each)."""
    timeout_s: float = Field(15.0, gt=0.0, le=50.0)
    """Timeout of one request of a web tool, in seconds."""
    tries: Count = 3
    """Attempts of a request that fails through no fault of the agent."""
    calls_per_second: float = Field(0.0, ge=0.0)
    """Calls per second of a web tool, over all episodes; 0: no limit."""
    cache: str = ""
    """Directory that caches results of web tools; empty: no cache."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts outside the public internet that `read_page` may read, as "wiki.intranet" or "127.0.0.1:8000"."""
    proxy: str = ""
    """HTTP proxy of the web tools, as http://host:port; empty: none, even if the environment names one."""
    file_chars: int = Field(20_000, ge=1, le=500_000)
    """Characters that one call of `inspect_file` returns; the agent requests the following ones by `start`."""
    vision_url: str = "https://api.openai.com/v1"
    """OpenAI-compatible endpoint of the vision model behind `look`."""
    vision_model: str = ""
    """Name of that model at the endpoint."""
    vision_key: str = "OPENAI_API_KEY"
    """Environment variable that holds the endpoint's key; empty: the endpoint needs none."""
    env_file: str = ""
    """File of keys, one NAME=value per line; empty: .env, if it exists. The environment takes precedence."""
    install_allow: tuple[str, ...] = ()
    """Packages that `install` may add to a session, each with or without versions ("attrs>=23"). Their dependencies must be in this
    list too, or in the kernel environment."""

    @pydantic.model_validator(mode="after")
    def _every_key_acts(self) -> Self:
        if self.reader_url and self.reader != "jina":
            raise ValueError('reader_url has an effect with reader = "jina" only')
        return self

    @pydantic.field_validator("search_url", "reader_url", "vision_url", "proxy")
    @classmethod
    def _no_secret_in_an_address(cls, url: str) -> str:
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise ValueError("the address contains a user name or password, and the run would record it: remove them")
        return url
