"""Wireshark's external captures (extcap): interfaces of ours in `tshark -D` and in Wireshark's list.

`grammar` answers what Wireshark asks before a capture, and loads next to nothing, since it is asked at every start;
`capture` runs one: a light loop that owns the FIFO, and beside it a feed (`synth`, `tap`) that loads the library.

Source: Wireshark, doc/README.extcap, and what tshark 4.0 was seen to call.
"""
