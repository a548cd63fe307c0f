"""The calls of Ray that the launcher makes, without Ray."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import ModuleType, SimpleNamespace
from typing import Any


class RayError(Exception):
    pass


class Task:
    def __init__(self, stub: Stub, function: Any, options: dict[str, Any]) -> None:
        self.stub, self.function, self.given = stub, function, options

    def options(self, **options: Any) -> Task:
        return Task(self.stub, self.function, options)

    def remote(self, *args: Any) -> Future[Any]:
        self.stub.submitted.append((args, self.given))
        return self.stub.threads.submit(self._tried, *args)

    def _tried(self, *args: Any) -> Any:
        for left in reversed(range(self.given["max_retries"] + 1)):
            self.stub.tries += 1
            try:
                return self.function(*args)
            except tuple(self.given["retry_exceptions"]):
                if not left:
                    raise
        raise AssertionError


class Stub(ModuleType):
    """The calls of Ray that the launcher makes; tasks run in threads, as many as the cluster has cores."""

    def __init__(self, cores: int = 2, gpus: int = 0) -> None:
        super().__init__("ray")
        self.threads = ThreadPoolExecutor(cores)
        self.resources = {"CPU": float(cores), **({"GPU": float(gpus)} if gpus else {})}
        self.submitted: list[tuple[Any, dict[str, Any]]] = []
        self.addresses: list[str] = []
        self.tries, self.down = 0, 0
        self.cancelled: list[Any] = []
        self.exceptions = SimpleNamespace(RayError=RayError)

    def init(self, address: str, **_: Any) -> None:
        if address == "nowhere":
            raise ConnectionError("Could not find any\nrunning Ray instance.")
        self.addresses.append(address)

    def shutdown(self) -> None:
        self.down += 1

    def remote(self, function: Any) -> Task:
        return Task(self, function, {})

    def wait(self, refs: list[Future[Any]], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        done, left = wait(refs, timeout=timeout, return_when="FIRST_COMPLETED")
        return list(done), list(left)

    def get(self, ref: Future[Any]) -> Any:
        return ref.result()

    def cancel(self, ref: Future[Any]) -> None:
        self.cancelled.append(ref)

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def get_gpu_ids(self) -> list[int]:
        return [0] if self.resources.get("GPU") else []
