"""What the benchmarks share: bars and their verdict, traces to work on, runs of nsstream, a veth pair to send over."""
