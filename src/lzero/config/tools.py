"""Keys of the agent's tools."""

from typing import Literal, Self

import pydantic
from pydantic import Field

from lzero.config.base import Count, Section


class ToolsConfig(Section):
    search: Literal["auto", "serper", "exa", "searxng"] = Field(
        "auto",
        description="Service behind `web_search`; auto: SearXNG if search_url is set, else the service whose key is set "
        "(SERPER_API_KEY, EXA_API_KEY).",
    )
    search_url: str = Field(
        "", description="Address of that service, as http://localhost:8888; empty: its public address."
    )
    search_results: int = Field(5, ge=1, le=20, description="Results of a `web_search` that names no number.")
    snippet_chars: Count = Field(1000, description="Maximum characters of a web result that the agent sees.")
    reader: Literal["local", "jina"] = Field(
        "local", description="Converter of pages to Markdown for `read_page`: this machine (extra `web`), or r.jina.ai."
    )
    reader_url: str = Field("", description="Address of your own Jina reader; empty: r.jina.ai.")
    page_tokens: Count = Field(
        100_000, description="Maximum tokens of a page that the agent sees (of four characters each)."
    )
    timeout_s: float = Field(15.0, gt=0.0, le=50.0, description="Timeout of one request of a web tool, in seconds.")
    tries: Count = Field(3, description="Attempts of a request that fails through no fault of the agent.")
    calls_per_second: float = Field(
        0.0, ge=0.0, description="Calls per second of a web tool, over all episodes; 0: no limit."
    )
    cache: str = Field(
        "",
        description="Directory that caches results of web tools; empty: no cache.",
    )
    allow_hosts: tuple[str, ...] = Field(
        (),
        description='Hosts outside the public internet that `read_page` may read, as "wiki.intranet" or "127.0.0.1:8000".',
    )
    proxy: str = Field(
        "",
        description="HTTP proxy of the web tools, as http://host:port; empty: none, even if the environment names one.",
    )
    file_chars: int = Field(
        20_000,
        ge=1,
        le=500_000,
        description="Characters that one call of `inspect_file` returns; the agent requests the following ones by `start`.",
    )
    vision_url: str = Field(
        "https://api.openai.com/v1", description="OpenAI-compatible endpoint of the vision model behind `look`."
    )
    vision_model: str = Field("", description="Name of that model at the endpoint.")
    vision_key: str = Field(
        "OPENAI_API_KEY",
        description="Environment variable that holds the endpoint's key; empty: the endpoint needs none.",
    )
    env_file: str = Field(
        "",
        description="File of keys, one NAME=value per line; empty: .env, if it exists. The environment takes precedence.",
    )
    install_allow: tuple[str, ...] = Field(
        (),
        description='Packages that `install` may add to a session, each with or without versions ("attrs>=23"). Their dependencies must '
        "be in this list too, or in the kernel environment.",
    )

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
