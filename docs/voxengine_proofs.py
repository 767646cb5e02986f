"""The test that proves each line of docs/voxengine.md, and what VoxEngine's client has not."""

from __future__ import annotations

_METHODS = "tests/conformance/test_voxengine_methods.py::"
_PARAMETERS = "tests/conformance/test_voxengine_parameters.py::"
_EVENTS = "tests/conformance/test_voxengine_events.py::"
_LISTENERS = "tests/unit/parley_realtime/test_listeners.py::"
_CONNECTION = "tests/integration/parley_realtime/test_connection.py::"
_FLAVOURS = "tests/integration/parley_realtime/test_flavours.py::"
_URLS = "tests/unit/parley_realtime/test_urls_and_refusals.py::"

_SAME = (
    "create_realtime_api_client",
    "id",
    "web_socket_id",
    "close",
    "add_event_listener",
    "remove_event_listener",
    "send_media_to",
    "stop_media_to",
    "clear_media_buffer",
    "session_update",
    "response_create",
    "response_cancel",
)
METHODS = {name: f"{_METHODS}test_{name}" for name in _SAME} | {
    "send_media_between": f"{_PARAMETERS}test_send_media_between",
    "stop_media_between": f"{_PARAMETERS}test_send_media_between",
    **{
        f"conversation_item_{verb}": f"{_METHODS}test_conversation_items"
        for verb in ("create", "retrieve", "truncate", "delete")
    },
    "input_audio_buffer_clear": f"{_METHODS}test_input_audio_buffer",
    "input_audio_buffer_commit": f"{_METHODS}test_input_audio_buffer",
}
PARAMETERS = {
    name: f"{_PARAMETERS}test_{name}"
    for name in (
        "api_key",
        "model",
        "type",
        "base_url",
        "on_web_socket_close",
        "statistics",
        "trace",
        "privacy",
    )
} | {
    "SendMediaParameters.tag": f"{_PARAMETERS}test_send_media_parameters",
    "SendMediaParameters.custom_parameters": f"{_PARAMETERS}test_send_media_parameters",
    "SendMediaParameters.encoding": f"{_PARAMETERS}test_send_media_parameters",
    "ClearMediaBufferParameters.tag": f"{_PARAMETERS}test_clear_media_buffer_parameters",
}
EVENT = _EVENTS + "test_event[{shape}-{name}]"
OWN_EVENTS = {
    "Unknown": f"{_EVENTS}test_unknown",
    "HTTPResponse": f"{_EVENTS}test_http_response_and_connector_information",
    "ConnectorInformation": f"{_EVENTS}test_http_response_and_connector_information",
    "WebSocketError": f"{_EVENTS}test_web_socket_error",
}
MEDIA_EVENT = _EVENTS + "test_web_socket_media_events[{shape}]"
ENUM = "tests/unit/parley_realtime/test_catalogue.py::test_enum[{name}]"

RULES: tuple[tuple[str, str, str], ...] = (
    (
        "The factory's promise rejects when there is no connection",
        "it raises the error that says why",
        "tests/integration/parley_realtime/test_refusals.py::test_error_and_close_after_the_upgrade",
    ),
    (
        "Methods may be called as soon as the factory has returned",
        "what is called at once is sent, after the session exists",
        f"{_CONNECTION}TestSending::test_nothing_goes_before_the_session",
    ),
    (
        "`SessionCreated` is heard by who registers after the factory",
        "events wait for the first listener",
        f"{_CONNECTION}TestEvents::test_who_comes_from_a_factory_misses_nothing",
    ),
    (
        "An event has `client` and `data.payload`, the raw server event",
        '`event.client` and `event.data["payload"]`, a dict whose keys and types editors know',
        "tests/unit/parley_realtime/test_typing.py::test_handlers_are_typed",
    ),
    (
        "What is no function is an error when it is called",
        "taken at registration, ends the scenario at dispatch",
        f"{_METHODS}test_add_event_listener_no_function",
    ),
    (
        "A callback has 1 second",
        "a sync one, by its name; an async one has 10 seconds in all; both are parameters",
        f"{_LISTENERS}TestLimits::test_a_sync_listener_over_its_second_is_named",
    ),
    (
        "An error in a callback ends the session",
        '`on_handler_error="log"` lets it go on',
        f"{_LISTENERS}TestLogOnly::test_what_raises_or_takes_too_long_is_logged_and_the_others_go_on",
    ),
    (
        "A name that no event has never fires",
        "registering for it raises, with the nearest name",
        f"{_LISTENERS}test_a_name_that_never_fires_is_refused",
    ),
    (
        "Without a callback `removeEventListener` removes all",
        "the same",
        f"{_METHODS}test_remove_event_listener",
    ),
    (
        "`input_audio_format` is ignored",
        "the connector owns both formats, in both shapes",
        f"{_METHODS}test_session_update",
    ),
    (
        "Audio is no event",
        "audio deltas go to media units alone",
        f"{_METHODS}test_add_event_listener_never_gets_audio",
    ),
    (
        "Media events have `tag`, `encoding`, `customParameters` and `mediaInfo`",
        "in `event.data`: `tag`, `encoding`, `custom_parameters`, `media_info` (`duration` in ms)",
        f"{_EVENTS}test_web_socket_media_events",
    ),
    (
        "On barge-in Beta clears the buffer, in GA the scenario does",
        "the same; `clear_on_speech` chooses",
        f"{_METHODS}test_barge_in",
    ),
    (
        "`responseCreate()` without an argument is tolerated",
        "the same",
        f"{_METHODS}test_response_create",
    ),
    (
        "Audio into the client is held up to 10 seconds, what comes then is discarded",
        "10 seconds too (`media_buffer_ms`); the oldest is discarded, the newest kept",
        f"{_CONNECTION}TestSending::test_audio_is_bounded_while_the_provider_does_not_read",
    ),
    (
        "`close` ends the connection or the attempt",
        "the attempt raises `ConnectAborted`",
        f"{_METHODS}test_close_attempt",
    ),
)

_STATISTICS = "tests/unit/parley_realtime/test_statistics.py::"
EXTENSIONS: tuple[tuple[str, str, str], ...] = (
    ("`connect()`", "For a client that was made without the factory.", f"{_METHODS}test_id"),
    (
        "`wait_closed()`",
        "Until all is gone; returns what ended it.",
        f"{_CONNECTION}TestScenario::test_close_inside_a_listener",
    ),
    ("`push_media(payload)`", "Caller audio from a program.", f"{_METHODS}test_push_media"),
    (
        "`send_event(event)`",
        "A client event in the provider's own JSON.",
        f"{_METHODS}test_create_realtime_api_client",
    ),
    ("`state`", "Where the connection is in its life.", f"{_METHODS}test_add_event_listener_no_function"),
    ("`error`", "What ended the client.", f"{_CONNECTION}TestEnd::test_the_provider_closes"),
    (
        "`scenario_error`",
        "The listener's fault that ended it.",
        f"{_METHODS}test_add_event_listener_no_function",
    ),
    (
        "`rate_limits`",
        "What the provider said last of each limit.",
        "tests/integration/parley_realtime/test_diagnostics.py"
        "::TestRateLimits::test_the_last_word_on_each_limit_can_be_read",
    ),
    ("`flavour`", "OpenAI, Azure (GA and preview), or the address as it is.", f"{_FLAVOURS}test_flavour"),
    ("`deployment`", "Azure's name of a model.", f"{_URLS}test_what_does_not_go_together_is_named"),
    ("`api_version`", "Of Azure's preview.", f"{_URLS}test_what_does_not_go_together_is_named"),
    (
        "`authentication`",
        "The key as bearer or as `api-key`.",
        f"{_URLS}test_what_does_not_go_together_is_named",
    ),
    ("`headers`", "More headers of the handshake.", f"{_URLS}TestParameters::test_headers"),
    ("`organization`", "OpenAI's header of that name.", f"{_URLS}TestParameters::test_headers"),
    ("`project`", "OpenAI's header of that name.", f"{_URLS}TestParameters::test_headers"),
    ("`safety_identifier`", "OpenAI's header of that name.", f"{_URLS}TestParameters::test_headers"),
    (
        "`ssl`",
        "The TLS context.",
        "tests/integration/parley_realtime/test_refusals.py::test_a_certificate_of_an_authority_that_was_given",
    ),
    (
        "`proxy`",
        "A proxy's address, or the environment's.",
        f"{_FLAVOURS}test_a_proxy_that_was_given_is_used",
    ),
    (
        "`transport`",
        "What speaks WebSocket: `websockets`, or `picows` at a fraction of the CPU.",
        "tests/integration/parley_realtime/test_transports.py::test_the_transport_that_is_named_is_used",
    ),
    (
        "`gather`",
        "When frames of many clients are handled together; without it each the moment it comes.",
        "tests/unit/parley_realtime/test_turns.py::test_frames_that_are_gathered_wait_for_the_call",
    ),
    (
        "`congestion`",
        "Which TCP congestion control carries the conversation.",
        "tests/integration/parley_realtime/test_transports.py::test_the_congestion_control_that_is_named_is_asked_for",
    ),
    (
        "`allow_address`",
        "Judges the address a name led to, before the key is sent.",
        "tests/integration/parley_realtime/test_addresses.py::test_a_refused_address_never_sees_the_request",
    ),
    (
        "`on_scenario_error`",
        "Told what ended the scenario.",
        "tests/integration/parley_realtime/test_privacy.py::test_no_word_leaves",
    ),
    (
        "`observer`",
        "Sees every event before listeners.",
        f"{_CONNECTION}TestEvents::test_the_observer_sees_everything_but_audio_and_before_listeners",
    ),
    (
        "`recovery`",
        "Outlive a lost WebSocket and the provider's time limit.",
        f"{_PARAMETERS}test_recovery",
    ),
    ("`RecoveryEvents`", "What listeners are told of it.", f"{_PARAMETERS}test_recovery"),
    ("`clear_on_speech`", "Whether barge-in clears by itself.", f"{_PARAMETERS}test_clear_on_speech"),
    ("`sync_handler_timeout`", "The second of a callback.", f"{_PARAMETERS}test_handler_limits"),
    (
        "`handler_timeout`",
        "The time of an async callback.",
        f"{_CONNECTION}TestScenario::test_an_endless_listener",
    ),
    (
        "`on_handler_error`",
        "End the scenario, or log.",
        "tests/integration/parley_realtime/test_privacy.py::test_a_listener_is_named_and_its_words_are_not",
    ),
    (
        "`connect_timeout`",
        "From the name to the session.",
        "tests/integration/parley_realtime/test_refusals.py::test_accepts_tcp_and_stays_silent",
    ),
    (
        "`close_timeout`",
        "For the provider to say goodbye.",
        f"{_CONNECTION}TestEnd::test_a_provider_that_does_not_say_goodbye",
    ),
    (
        "`send_timeout`",
        "For a provider that reads nothing.",
        f"{_CONNECTION}TestEnd::test_a_provider_that_reads_nothing",
    ),
    ("`ping_interval`", "How often the socket is tried.", f"{_CONNECTION}TestEnd::test_no_answer_to_pings"),
    (
        "`ping_timeout`",
        "For a provider that answers no ping.",
        f"{_CONNECTION}TestEnd::test_no_answer_to_pings",
    ),
    (
        "`max_frame_bytes`",
        "Bound of what is received.",
        f"{_CONNECTION}TestEnd::test_a_frame_beyond_the_bound",
    ),
    (
        "`input_format`",
        "PCM16 or G.711 to the provider.",
        f"{_CONNECTION}TestSending::test_other_formats_go_ahead_of_the_first_audio",
    ),
    (
        "`output_format`",
        "PCM16 or G.711 from the provider.",
        f"{_CONNECTION}TestSending::test_other_formats_go_ahead_of_the_first_audio",
    ),
    (
        "`media_buffer_ms`",
        "Bound of caller audio not sent.",
        f"{_CONNECTION}TestSending::test_audio_is_bounded_while_the_provider_does_not_read",
    ),
    (
        "`playout_buffer_ms`",
        "Bound of audio a unit has not played.",
        f"{_CONNECTION}TestEvents::test_a_flood_of_audio_is_bounded_and_the_socket_is_read",
    ),
    (
        "`outgoing_events`",
        "Bound of client events not sent.",
        f"{_CONNECTION}TestSending::test_events_are_bounded",
    ),
    (
        "`pending_events`",
        "Bound of server events not handled.",
        f"{_CONNECTION}TestScenario::test_listeners_slower_than_a_flood",
    ),
)

INSIDE = {
    *("shape", "opened", "received", "audio", "ending", "closed", "recovery", "socket_closed"),
    *("queued_bytes", "messages_received"),
}
"""Public methods of a client that are no part of its surface; those of a media unit begin with `media`."""
