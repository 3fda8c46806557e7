"""Train one model on many ranks: processes that each hold a part of its weights (FSDP2), on one machine or several.

    rank 0: the run (loop, engines, tools, disk)               ranks 1 … N-1
        dispatcher.run(order) ─── order, through the store ───▶  worker: waits for an order
              │               ─── arrays, through the group ──▶     │
              ▼                                                     ▼
         order.obey  ◀═══ the same passes, in lockstep ═══▶    order.obey
              ▼                                                     │
           answers   ◀─── metrics or the error, arrays ─────────────┘

starting.py     starts the ranks of a run, and opens the trainer of rank 0
place.py        reads this process's rank from torchrun's variables
group.py        joins the ranks, and compares them
watch.py        finds ranks that end, hang or fail
sockets.py      ends gloo's connections, so that nobody waits for a rank that hangs
dispatch.py     rank 0 gives orders, the others obey
orders.py       what every rank does for an order
member.py       loads a rank's part of the models
trainer.py      the trainer of rank 0, whose passes all ranks make
worker.py       the process of ranks 1 … N-1
wire.py         samples as arrays and back; nothing that a rank receives is a pickle
balance.py      divides samples over ranks
sharding.py     shards a model (FSDP2)
loading.py      loads a model, each rank its own part
weights.py      gathers whole weights, one tensor at a time
checkpoint.py   writes checkpoints, each rank its own part
"""
