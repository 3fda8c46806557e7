#!/usr/bin/env python3
"""Play vLLM's part, quickly: an HTTP server on a Unix socket, and a worker in a process of its own, which samples.

Like vLLM's, the server answers /health while its worker hangs, and ends when its worker has ended. Each token's log-probability is minus
the number in the file of weights that was loaded last, and 0 under the weights of the start. So a test sees which weights sampled a token,
whatever version it carries.
"""

import asyncio
import json
import os
import re
import sys
from typing import Any

TOKEN_S = 0.01
"""Seconds of a token."""
LOAD_S = 0.3
"""Seconds of loading weights."""
ROUTES = re.compile(r"^(\w+) (/[^? ]*)")
Reply = dict[str, Any]


class Worker:
    """Samples requests side by side. Speaks in lines of JSON."""

    def __init__(self) -> None:
        self.weights, self.version, self.tokens = 0.0, "default", 0
        self.running = asyncio.Event()
        self.running.set()

    async def work(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        print("{}", flush=True)
        async with asyncio.TaskGroup() as tasks:
            while line := await reader.readline():
                tasks.create_task(self.obey(json.loads(line)))
            os._exit(0)

    async def obey(self, order: Reply) -> None:
        done: Reply = {}
        if "sample" in order:
            done = await self.sample(order["sample"])
        elif "pause" in order:
            (self.running.clear if order["pause"] else self.running.set)()
        elif "load" in order:
            await asyncio.sleep(LOAD_S)
            try:
                with open(order["load"]) as file:
                    self.weights = float(file.read())
            except (OSError, ValueError) as error:
                done = {"failed": str(error)}
        elif "name" in order:
            self.version = order["name"]
        print(json.dumps({**done, "id": order["id"], "version": self.version, "tokens": self.tokens}), flush=True)

    async def sample(self, count: int) -> Reply:
        logprobs, spans = list[Reply](), list[Reply]()
        for place in range(count):
            await asyncio.sleep(TOKEN_S)
            await self.running.wait()
            self.tokens += 1
            logprobs.append({"logprob": -self.weights})
            if not spans or spans[-1]["version"] != self.version:
                spans.append({"version": self.version, "start": place})
            spans[-1]["end"] = place + 1
            print(json.dumps({"tokens": self.tokens}), flush=True)
        choice = {"token_ids": [5] * count, "logprobs": {"content": logprobs}, "finish_reason": "length"}
        return {"choices": [{**choice, "weight_versions": spans}]}


class Server:
    """Answers the routes that lzero uses."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments, self.asked, self.waiting, self.tokens = arguments, 0, dict[int, "asyncio.Future[Reply]"](), 0
        self.adapters: set[str | None] = {None}
        self.is_grouped, self.has_joined = "nccl" in self.argument("--weight-transfer-config"), False
        with open(f"{arguments[2]}/config.json") as file:
            self.vocabulary = json.load(file)["vocab_size"]

    async def serve(self) -> None:
        self.worker = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "worker", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert self.worker.stdout is not None
        await self.worker.stdout.readline()
        if "--uds" in self.arguments:
            await asyncio.start_unix_server(self.answer, self.argument("--uds"))
        else:
            await asyncio.start_server(self.answer, self.argument("--host"), int(self.argument("--port")))
        while line := await self.worker.stdout.readline():
            found = json.loads(line)
            self.tokens = found["tokens"]
            if (future := self.waiting.pop(found.get("id"), None)) is not None:
                future.set_result(found)
        os._exit(1)

    def argument(self, name: str) -> str:
        return self.arguments[self.arguments.index(name) + 1]

    async def ask(self, **order: object) -> Reply:
        self.asked += 1
        future = self.waiting[self.asked] = asyncio.get_running_loop().create_future()
        assert self.worker.stdin is not None
        self.worker.stdin.write(json.dumps({**order, "id": self.asked}).encode() + b"\n")
        found: Reply = await future
        return found

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        body = json.loads(await reader.readexactly(int(length[1])) or "{}") if length else {}
        (_, route), *_ = ROUTES.findall(head)
        found = await self.result(route, body)
        content = found if isinstance(found, str) else json.dumps(found)
        status = "500 Failed" if "failed" in found else "200 OK"
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n{content}".encode()
        )
        await writer.drain()
        writer.close()

    async def result(self, route: str, body: Reply) -> Reply | str:
        match route:
            case "/inference/v1/generate":
                ids, sampling = body["token_ids"], body["sampling_params"]
                if body.get("model") not in self.adapters:
                    return {"failed": "there is no such adapter"}
                if max(ids) >= self.vocabulary:
                    return {"failed": "an id is out of the vocabulary"}
                scores = [None, *({str(each): {"logprob": 0.0}} for each in ids[1:])]
                return {**await self.ask(sample=sampling["max_tokens"]), "prompt_logprobs": scores}
            case "/metrics":
                return f"vllm:generation_tokens_total {self.tokens}\n"
            case "/server_info":
                model = {"logprobs_mode": "processed_logprobs", "generation_config": "vllm", "dtype": "torch.float32"}
                model["max_model_len"] = int(self.argument("--max-model-len"))  # type: ignore[assignment]
                transfer = json.loads(self.argument("--weight-transfer-config"))
                scheduler = {"max_num_seqs": int(self.argument("--max-num-seqs"))}
                config = {"model_config": model, "weight_transfer_config": transfer, "scheduler_config": scheduler}
                return {"vllm_config": config}
            case "/pause" | "/resume":
                return await self.ask(pause=route == "/pause")
            case "/weight_info":
                return {"weight_version": (await self.ask(look=True))["version"]}
            case "/update_weight_version":
                return await self.ask(name=body["new_version"])
            case "/init_weight_transfer_engine":
                if self.is_grouped and not body["init_info"]:
                    return {"failed": "a group has an address"}
                self.has_joined = True
            case "/shutdown_weight_transfer_engine":
                self.has_joined = False
            case "/v1/load_lora_adapter":
                self.adapters.add(body["lora_name"])
            case "/v1/unload_lora_adapter":
                self.adapters.discard(body["lora_name"])
            case "/get_world_size":
                return {"world_size": 1}
            case "/update_weights" if self.is_grouped:
                return {} if self.has_joined else {"failed": "NCCL weight transfer not initialized"}
            case "/update_weights":
                return await self.ask(load=body["update_info"]["path"])
            case "/finish_weight_update":
                return await self.ask(name=body["weight_version"])
        return {"version": "0.32.0"}


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        asyncio.run(Worker().work())
    else:
        asyncio.run(Server(sys.argv).serve())
