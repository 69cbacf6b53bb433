"""A whole training in real processes, struck at every stage of a step (G22 to G24).

The prior service, the allocator, two vLLM servers and the trainer run as they do for a user. Proxies before the servers,
and events of the trainer, say which stage of a step it is; there one of them is killed, stopped or slowed, and afterwards
the books, the journal and the weights must be those of a run in which nothing happened.

    python -m tests.stages --list
    python -m tests.stages --cases kill-allocator-observe-2,kill-learner-saving-2
    make soak ONLY=stages
"""
