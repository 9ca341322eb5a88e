"""Protocols of the server, one file each: routes, readers of requests, responders, and their JSON schemas.

A new endpoint is one new file in this folder:

    @dataclass(frozen=True)
    class TopLabels:
        '''The first label of each text.'''                   # its description in the OpenAPI document

        labels: tuple[str, ...]                               # its JSON, and the schema of it

    def read(body: bytes, names: Mapping[str, str], limits: Limits) -> Question: ...
    def respond(question: Question, tasks: Sequence[TaskAnswers]) -> TopLabels: ...
    def schema(limits: Limits) -> Schema: ...                 # JSON schema of the request

    class Top(Protocol, tag="top"):
        endpoints = (inference("/top/{task}", read, respond, body=Body("Top", schema), reply=TopLabels),)

`inference` is for texts that grafts answer. An `Endpoint` with a handler is for anything else, as in `health.py`.

A user may bring a protocol without touching this folder: `TOPGRAFT_VARIANTS=top.py topgraft serve ...` runs the script
(or imports the module) of that name before the routes are made. The content of the file is the same.
"""
