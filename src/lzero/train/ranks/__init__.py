"""Train one model on many ranks: processes that each hold a part of its weights (FSDP2), on one machine or several.

    rank 0: the run (loop, engines, tools, disk)            ranks 1 … N-1
        crew.run(order) ──── order, through the store ────▶ worker: waits for an order
              │         ──── arrays, through the group ───▶
              ▼                                                  ▼
           handler ◀═══ the same passes, in lockstep ═══▶     handler
              ▼                                                  │
           replies ◀──── metrics or the error, arrays ───────────┘

`group.py` joins the ranks and finds dead ones. `orders.py` holds what every rank does for an order; `crew.py` gives the orders and
`worker.py` obeys. `wire.py` turns samples into arrays and back, and nothing that a rank receives is a pickle. `balance.py` divides samples
over ranks. `sharding.py` shards the model.
"""
