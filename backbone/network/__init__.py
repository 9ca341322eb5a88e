"""The network: its parts, the sites where methods act, and how stored kernels are multiplied."""
