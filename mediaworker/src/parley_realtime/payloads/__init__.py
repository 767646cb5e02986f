"""What events hold, for editors and type checkers: a TypedDict for every event of both shapes.

`payloads.ga` and `payloads.beta` have one for each event a client can receive or send, named as the event is
(`ga.ResponseDone`), and for the objects in them; `ga.ServerEvent` and `ga.ClientEvent` are all of one
direction, told apart by `type`. They describe and check nothing: a payload is the provider's JSON as it came,
and may hold fields that no table knows.

A field that a type marks as required was in every documented event; providers other than OpenAI may omit it.
"""
