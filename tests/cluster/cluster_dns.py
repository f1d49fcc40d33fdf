"""Names of services for pods: `cluster_dns.py KUBECONFIG ADDRESS`. NAME.NAMESPACE.svc.cluster.local, as the API server knows it now.

What CoreDNS's plug-in `kubernetes` answers for services, headless ones and pods with a hostname, without caches. Nothing is forwarded.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from knhk.adapters.kube_client import KubeClient, api_client
from knhk.model.faults import KnhkError, NotFound

sys.path.insert(0, str(Path(__file__).parent))
import node_machine as machine

ZONE = (b"svc", b"cluster", b"local", b"")
TTL_S = 1


def serve(client: KubeClient, address: str) -> None:
    """Answers for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind((address, 53))
        while True:
            asked, who = listening.recvfrom(4096)
            try:
                query = dns.message.from_wire(asked)
            except dns.exception.DNSException:
                continue
            if not query.question:
                continue
            listening.sendto(answer(client, query).to_wire(), who)


def answer(client: KubeClient, query: dns.message.Message) -> dns.message.Message:
    """NXDOMAIN for unknown names, an empty answer for other types, SERVFAIL when the API server does not say."""
    made = dns.message.make_response(query, recursion_available=True)
    made.flags |= dns.flags.AA
    question = query.question[0]
    try:
        found = addresses(client, tuple(label.lower() for label in question.name.labels))
    except NotFound:
        made.set_rcode(dns.rcode.NXDOMAIN)
        return made
    except KnhkError:
        made.set_rcode(dns.rcode.SERVFAIL)
        return made
    if question.rdtype == dns.rdatatype.A and found:
        made.answer.append(dns.rrset.from_text(question.name, TTL_S, "IN", "A", *found))
    return made


def addresses(client: KubeClient, labels: tuple[bytes, ...]) -> list[str]:
    """IPv4 addresses of a name. Raises NotFound and what the client raises."""
    if labels == (*machine.REGISTRY.encode().split(b"."), b""):
        return [machine.ADDRESS]
    if labels[-len(ZONE) :] != ZONE or len(labels) - len(ZONE) not in (2, 3):
        raise NotFound(b".".join(labels).decode("ascii", "replace"))
    *host, name, namespace = (label.decode("ascii", "replace") for label in labels[: -len(ZONE)])
    service = client.call("GET", f"/api/v1/namespaces/{namespace}/services/{name}")
    address = str(service["spec"].get("clusterIP", ""))
    if address != "None" and not host:
        return [address]
    slices = client.call(
        "GET", f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", {"labelSelector": f"kubernetes.io/service-name={name}"}
    )
    rows = [row for piece in slices["items"] for row in piece.get("endpoints") or ()]
    ready = [row for row in rows if row.get("conditions", {}).get("ready", True) or service["spec"].get("publishNotReadyAddresses")]
    found = [address for row in ready if not host or row.get("hostname") == host[0] for address in row["addresses"]]
    if host and not found:
        raise NotFound(f"{host[0]}.{name}.{namespace}")
    return found


if __name__ == "__main__":
    serve(KubeClient(api_client(Path(sys.argv[1]))), sys.argv[2])
