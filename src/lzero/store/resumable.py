"""Keys of the configuration that a resumed run may change."""

RESUMABLE = (
    "train.",
    "run.trackers",
    "run.wandb",
    "eval.every",
    "rollout.concurrency",
    "rollout.max_failure_rate",
    "rollout.episode_timeout_s",
    "rollout.lag_",
    "launch.",
    "repl.servers",
    "repl.addresses",
    "repl.token_file",
    "critic.lr",
    "critic.epochs",
    "critic.value_clip",
    "critic.warmup_updates",
    "engine.urls",
    "engine.key",
    "engine.shared_directory",
    "engine.program",
    "engine.start_s",
    "engine.hang_s",
    "engine.sync_s",
)
"""Prefixes of the keys that a resumed run may change."""

FIXED = ("train.optimizer",)
"""Keys among them that it may not change: another optimizer has other moments."""


def is_resumable(key: str) -> bool:
    """Return whether a resumed run may change a key."""
    return key.startswith(RESUMABLE) and key not in FIXED
