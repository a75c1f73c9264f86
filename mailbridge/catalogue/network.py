"""DNS, TCP, TLS: what comes before any server has spoken."""

from __future__ import annotations

from typing import Final

from mailbridge.catalogue.base import Entry, Text
from mailbridge.catalogue.phrases import OPEN_FIREWALL, alike

ENTRIES: Final[tuple[Entry, ...]] = (
    Entry(
        code="dns",
        kind="configuration",
        cause=Text(
            en="the host name does not resolve", de="der Rechnername lässt sich nicht auflösen"
        ),
        fix=Text(
            en="Check the name ($server) for a slip, and the resolver of this machine: "
            "`resolvectl query outlook.office365.com`. In a container, check that it has "
            "DNS at all.",
            de="Den Namen ($server) auf Tippfehler prüfen und den Resolver dieses Rechners: "
            "`resolvectl query outlook.office365.com`. In einem Container prüfen, ob er "
            "überhaupt DNS hat.",
        ),
        seen=("socket.gaierror: [Errno -2] Name or service not known",),
    ),
    Entry(
        code="dns.no_answer",
        kind="passing",
        cause=Text(
            en="this machine's resolver does not answer",
            de="der Resolver dieses Rechners antwortet nicht",
        ),
        fix=Text(
            en="mailbridge tries again. If it stays: `resolvectl status`, and whether the "
            "firewall lets DNS (port 53) pass.",
            de="mailbridge versucht es erneut. Bleibt es dabei: `resolvectl status`, und ob "
            "die Firewall DNS (Port 53) durchlässt.",
        ),
        seen=("socket.gaierror: [Errno -3] Temporary failure in name resolution",),
    ),
    *alike(
        "dns",
        (
            "imap",
            "pop3",
            "smtp",
        ),
        "passing",
        cause=Text(
            en="the host name does not resolve", de="der Rechnername lässt sich nicht auflösen"
        ),
        fix=Text(
            en="Check the name ($server) for a slip, and the resolver of this machine: "
            "`resolvectl query outlook.office365.com`.",
            de="Den Namen ($server) auf Tippfehler prüfen und den Resolver dieses Rechners: "
            "`resolvectl query outlook.office365.com`.",
        ),
        seen=("socket.gaierror: [Errno -2] Name or service not known",),
    ),
    Entry(
        code="tcp",
        kind="configuration",
        cause=Text(en="no connection to the server", de="keine Verbindung zum Server"),
        fix=OPEN_FIREWALL,
    ),
    Entry(
        code="tcp.refused",
        kind="configuration",
        cause=Text(
            en="nothing listens at this port, or a firewall refuses it at once",
            de="an diesem Port nimmt niemand Verbindungen an, oder eine Firewall weist sie "
            "sofort ab",
        ),
        fix=Text(
            en=f"Check the port of $server: 993 (IMAP), 995 (POP3), 587 (SMTP). {OPEN_FIREWALL.en}",
            de="Den Port von $server prüfen: 993 (IMAP), 995 (POP3), 587 (SMTP). "
            f"{OPEN_FIREWALL.de}",
        ),
        seen=("ConnectionRefusedError: [Errno 111] Connection refused",),
    ),
    Entry(
        code="tcp.timeout",
        kind="configuration",
        cause=Text(
            en="nobody answers at this address and port: a firewall swallows the connection",
            de="unter dieser Adresse und diesem Port antwortet niemand: eine Firewall "
            "verschluckt die Verbindung",
        ),
        fix=OPEN_FIREWALL,
        seen=("TimeoutError: timed out",),
    ),
    Entry(
        code="tcp.unreachable",
        kind="configuration",
        cause=Text(
            en="this machine has no way to the server's address",
            de="dieser Rechner hat keinen Weg zur Adresse des Servers",
        ),
        fix=Text(
            en="`ip route get` with the address of $server shows the way. Where IPv6 is half "
            f"set up, switch it off or mend it. {OPEN_FIREWALL.en}",
            de="`ip route get` mit der Adresse von $server zeigt den Weg. Wo IPv6 nur halb "
            f"eingerichtet ist, abschalten oder in Ordnung bringen. {OPEN_FIREWALL.de}",
        ),
        seen=(
            "OSError: [Errno 101] Network is unreachable",
            "OSError: [Errno 113] No route to host",
        ),
    ),
    Entry(
        code="smtp.port_465",
        kind="configuration",
        cause=Text(
            en="Exchange Online does not offer port 465",
            de="Exchange Online bietet Port 465 nicht an",
        ),
        fix=Text(
            en="Write `send.server: {host: smtp.office365.com, port: 587, tls: starttls}`.",
            de="`send.server: {host: smtp.office365.com, port: 587, tls: starttls}` eintragen.",
        ),
        seen=("ConnectionRefusedError or TimeoutError at port 465",),
    ),
    Entry(
        code="tls",
        kind="configuration",
        cause=Text(en="TLS could not be agreed on", de="TLS kam nicht zustande"),
        fix=Text(
            en="Look for something between this machine and $server that changes TLS; `openssl "
            "s_client -connect $server` shows what answers.",
            de="Nach etwas suchen, das zwischen diesem Rechner und $server TLS verändert; "
            "`openssl s_client -connect $server` zeigt, wer antwortet.",
        ),
    ),
    *alike(
        "tls",
        (
            "imap",
            "pop3",
            "smtp",
        ),
        "passing",
        cause=Text(
            en="TLS broke in the middle of a session, or could not be agreed on",
            de="TLS ist mitten in einer Sitzung abgerissen oder kam nicht zustande",
        ),
        fix=Text(
            en="mailbridge connects again. If it stays, look for something between this "
            "machine and $server that changes TLS: `openssl s_client -connect $server`.",
            de="mailbridge verbindet sich neu. Bleibt es dabei, nach etwas suchen, das "
            "zwischen diesem Rechner und $server TLS verändert: `openssl s_client -connect "
            "$server`.",
        ),
        seen=("ssl.SSLError",),
    ),
    Entry(
        code="tls.closed",
        kind="passing",
        cause=Text(
            en="the other side closed the connection instead of speaking TLS",
            de="die Gegenseite hat die Verbindung geschlossen, statt TLS zu sprechen",
        ),
        fix=Text(
            en="mailbridge tries again. If it stays, a firewall or proxy does not let this TLS "
            "pass, or $server speaks no TLS there.",
            de="mailbridge versucht es erneut. Bleibt es dabei, lässt eine Firewall oder ein "
            "Proxy dieses TLS nicht durch, oder $server spricht dort kein TLS.",
        ),
        seen=("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol",),
    ),
    Entry(
        code="tls.wrong_port",
        kind="configuration",
        cause=Text(
            en="what answers there does not speak TLS from the start",
            de="was dort antwortet, spricht nicht von Anfang an TLS",
        ),
        fix=Text(
            en="Ports 587, 143 and 110 begin without TLS: write `tls: starttls`; ports 993, "
            "995 and 465 begin with it: `tls: implicit`.",
            de="Die Ports 587, 143 und 110 beginnen ohne TLS: `tls: starttls` eintragen; die "
            "Ports 993, 995 und 465 beginnen damit: `tls: implicit`.",
        ),
        seen=(
            "[SSL: WRONG_VERSION_NUMBER] wrong version number",
            "[SSL: RECORD_LAYER_FAILURE] record layer failure",
        ),
    ),
    Entry(
        code="tls.old_protocol",
        kind="configuration",
        cause=Text(
            en="the other side knows only TLS versions that are not safe any more",
            de="die Gegenseite kennt nur TLS-Versionen, die nicht mehr sicher sind",
        ),
        fix=Text(
            en="mailbridge speaks TLS 1.2 and 1.3. Exchange Online does so too: something "
            "between is older (a proxy, a firewall that inspects TLS). Update it, or let it "
            "pass $server untouched.",
            de="mailbridge spricht TLS 1.2 und 1.3. Exchange Online ebenso: etwas dazwischen "
            "ist älter (ein Proxy, eine Firewall, die TLS aufbricht). Dieses aktualisieren "
            "oder $server davon ausnehmen.",
        ),
        seen=(
            "[SSL: UNSUPPORTED_PROTOCOL] unsupported protocol",
            "[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert protocol version",
        ),
    ),
    Entry(
        code="tls.certificate",
        kind="configuration",
        cause=Text(
            en="the server's certificate is not trusted",
            de="dem Zertifikat des Servers wird nicht vertraut",
        ),
        fix=Text(
            en="The words behind it say why. If a proxy inspects TLS here, give its CA with "
            "`ca: FILE`; verification cannot be switched off.",
            de="Die Worte dahinter sagen, warum. Bricht hier ein Proxy TLS auf, dessen CA mit "
            "`ca: DATEI` angeben; die Prüfung lässt sich nicht abschalten.",
        ),
        seen=("[SSL: CERTIFICATE_VERIFY_FAILED]",),
    ),
    Entry(
        code="tls.inspected",
        kind="configuration",
        cause=Text(
            en="the certificate comes from an authority of somebody's own: mostly a proxy or "
            "firewall that inspects TLS",
            de="das Zertifikat stammt von einer eigenen Zertifizierungsstelle: meist ein Proxy "
            "oder eine Firewall, die TLS aufbricht",
        ),
        fix=Text(
            en="Let it pass $server uninspected (Microsoft asks for that), or give its CA: "
            "`ca: FILE` in the `server` of this mailbox, or in apps.$app for tokens. "
            "Verification cannot be switched off.",
            de="$server von der Prüfung ausnehmen (Microsoft verlangt das), oder die CA "
            "angeben: `ca: DATEI` im `server` dieses Postfachs, für Token in apps.$app. Die "
            "Prüfung lässt sich nicht abschalten.",
        ),
        seen=("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate in certificate chain",),
    ),
    Entry(
        code="tls.self_signed",
        kind="configuration",
        cause=Text(
            en="the certificate vouches for itself: a device or a test server, and not "
            "Exchange Online",
            de="das Zertifikat bürgt für sich selbst: ein Gerät oder Testserver, nicht "
            "Exchange Online",
        ),
        fix=Text(
            en="Check that $server is the right one. If it is, give its certificate with `ca: "
            "FILE`. Verification cannot be switched off.",
            de="Prüfen, ob $server der richtige ist. Wenn ja, dessen Zertifikat mit `ca: "
            "DATEI` angeben. Die Prüfung lässt sich nicht abschalten.",
        ),
        seen=("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate",),
    ),
    Entry(
        code="tls.unknown_authority",
        kind="configuration",
        cause=Text(
            en="nobody whom this machine trusts vouches for the certificate: its store of "
            "authorities is missing (in a container, say), or a proxy inspects TLS",
            de="niemand, dem dieser Rechner vertraut, bürgt für das Zertifikat: sein Speicher "
            "der Zertifizierungsstellen fehlt (etwa in einem Container), oder ein Proxy "
            "bricht TLS auf",
        ),
        fix=Text(
            en="Install `ca-certificates`. If a proxy inspects TLS here, or the server has an "
            "authority of its own, give that CA with `ca: FILE`.",
            de="`ca-certificates` installieren. Bricht hier ein Proxy TLS auf oder hat der "
            "Server eine eigene Zertifizierungsstelle, diese mit `ca: DATEI` angeben.",
        ),
        seen=("[SSL: CERTIFICATE_VERIFY_FAILED] unable to get local issuer certificate",),
    ),
    Entry(
        code="tls.hostname",
        kind="configuration",
        cause=Text(
            en="the certificate is for another name",
            de="das Zertifikat ist auf einen anderen Namen ausgestellt",
        ),
        fix=Text(
            en="Use the server's own name and no alias: outlook.office365.com to fetch, "
            "smtp.office365.com to send; $server is not in the certificate.",
            de="Den eigenen Namen des Servers verwenden, keinen Alias: outlook.office365.com "
            "zum Abrufen, smtp.office365.com zum Senden; $server steht nicht im Zertifikat.",
        ),
        seen=(
            "[SSL: CERTIFICATE_VERIFY_FAILED] Hostname mismatch, certificate is not valid for",
            "[SSL: CERTIFICATE_VERIFY_FAILED] IP address mismatch, certificate is not valid for",
        ),
    ),
    Entry(
        code="tls.clock",
        kind="configuration",
        cause=Text(
            en="the certificate is not valid at the time that this machine's clock shows",
            de="das Zertifikat gilt nicht zu der Zeit, die die Uhr dieses Rechners zeigt",
        ),
        fix=Text(
            en="Compare the clock with the dates in the message: `timedatectl`, and switch NTP "
            "on. If the clock is right, the certificate of $server has to be renewed by "
            "whoever runs it.",
            de="Die Uhr mit den Daten in der Meldung vergleichen: `timedatectl`, und NTP "
            "einschalten. Geht die Uhr richtig, muss der Betreiber von $server das "
            "Zertifikat erneuern.",
        ),
        seen=(
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate is not yet valid",
            "[SSL: CERTIFICATE_VERIFY_FAILED] certificate has expired",
        ),
    ),
)
