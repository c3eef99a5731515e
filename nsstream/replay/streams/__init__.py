"""Where frames come from: models in sequence, one without end, followed or mixed; recordings; and what is made of them.

`replay.stream.open_stream` puts these together; each is a `FrameStream`, or a part of one.
"""
