"""What alarm servers take: the parameters of DIVERA 24/7 and Alamos FE2, and how long they may be.

Sources: DIVERA's help, page 19563127 (v1), and public clients of its v2; Alamos' support, page
219480070, and public clients of FE2's data format v2 (docs/formats).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Kind = Literal["text", "number", "whole", "flag", "names", "lines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One of an alarm's values: its kind, how many characters it may have, and its template."""

    kind: Kind = "text"
    most: int = 1000
    template: str = ""
    #: degrees, for coordinates
    bound: float | None = None


def _field(name: str) -> str:
    return f"{{{{ fields.{name} }}}}"


def _all(names: str, kind: Kind) -> dict[str, Parameter]:
    return {name: Parameter(kind=kind) for name in names.split()}


_PLACE: Final = {
    "address": Parameter(most=200, template=_field("address")),
    "lat": Parameter(kind="number", bound=90.0, template=_field("lat")),
    "lng": Parameter(kind="number", bound=180.0, template=_field("lng")),
}
_SAID: Final = {
    "title": Parameter(
        most=50, template="{{ fields.title or fields.keyword or mail.subject or 'Alarm' }}"
    ),
    "text": Parameter(template="{{ fields.text or mail.text }}"),
    "priority": Parameter(kind="flag", template=_field("priority")),
    "alarmcode_id": Parameter(kind="whole"),
    **_PLACE,
    **_all("scene_object caller patient remark units destination_address", "text"),
    **_all("additional_text_1 additional_text_2 additional_text_3", "text"),
    **_all("destination_lat destination_lng", "number"),
    **_all("destination", "flag"),
}
#: identical repeats are merged by it, so a delivery that comes twice raises one alarm
_NUMBER: Final = Parameter(most=100, template="{{ fields.number or mail.id }}")

#: POST …/api/alarm
DIVERA_V1: Final[Mapping[str, Parameter]] = MappingProxyType(
    {
        "number": _NUMBER,
        **_SAID,
        "ric": Parameter(template=_field("ric")),
        "vehicle": Parameter(template=_field("vehicle")),
        "person": Parameter(),
        **_all("cluster_ids group_ids user_cluster_relation_ids vehicle_ids", "names"),
        **_all("delay", "whole"),
        **_all("news coordinates", "text"),
        **_all("coordinates_x coordinates_y", "number"),
    }
)
#: POST …/api/v2/alarms
DIVERA_V2: Final[Mapping[str, Parameter]] = MappingProxyType(
    {
        "foreign_id": _NUMBER,
        **_SAID,
        "notification_type": Parameter(kind="whole", template="2"),
        "send_push": Parameter(kind="flag", template="true"),
        "report": Parameter(),
        **_all("cluster group user_cluster_relation vehicle", "names"),
        **_all("send_sms send_call send_mail send_pager private_mode closed", "flag"),
        **_all("notification_filter_vehicle notification_filter_status", "flag"),
        **_all("notification_filter_access", "flag"),
        **_all("response_time ts_publish", "whole"),
    }
)
#: POST …/rest/external/http/alarm/v2
ALAMOS: Final[Mapping[str, Parameter]] = MappingProxyType(
    {
        "externalId": _NUMBER,
        "keyword": Parameter(most=200, template="{{ fields.keyword or mail.subject or 'Alarm' }}"),
        "keyword_description": Parameter(template=_field("keyword_description")),
        "message": Parameter(
            kind="lines", most=10_000, template="{{ fields.message or fields.text or mail.text }}"
        ),
        "units": Parameter(kind="names", template=_field("units")),
        "street": Parameter(most=200, template=_field("street")),
        "house": Parameter(most=50, template=_field("house")),
        "city": Parameter(most=200, template=_field("city")),
        "lat": _PLACE["lat"],
        "lng": _PLACE["lng"],
    }
)


def divera(path: str) -> Mapping[str, Parameter]:
    """Return the parameters of the version that the path of a URL belongs to."""
    return DIVERA_V2 if "/v2/" in path else DIVERA_V1
