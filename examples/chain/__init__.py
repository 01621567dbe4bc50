"""Parts of `examples/delegation_chain.py`: the agents, the engines they run on, and what the terminal shows."""
