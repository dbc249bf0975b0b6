"""An API server's client: server-side apply, delete, read. A process for each call (kubectl) would cost more than all
that is tested."""
import http.client
import json
import ssl
import threading
from urllib.parse import urlencode

PLURALS = {
    "ServiceEntry": "serviceentries", "AuthorizationPolicy": "authorizationpolicies", "NetworkPolicy": "networkpolicies",
    "ServiceExpositionPolicy": "serviceexpositionpolicies", "ProxyConfig": "proxyconfigs", "PeerAuthentication": "peerauthentications",
    "EndpointSlice": "endpointslices", "ClusterPeering": "clusterpeerings", "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
}
CLUSTER_WIDE = {"Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "ClusterPeering", "ValidatingAdmissionPolicy",
                "ValidatingAdmissionPolicyBinding"}


class ApiError(Exception):
    def __init__(self, status, body):
        super().__init__(f"{status}: {body[:600]}")
        self.status = status


def obj(api_version, kind, name, namespace=None, spec=None, **rest):
    metadata = {"name": name, **({"namespace": namespace} if namespace else {}), **rest.pop("metadata", {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **({"spec": spec} if spec is not None else {}), **rest}


def path(api_version, kind, namespace=None, name=None, sub=None):
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    if kind not in CLUSTER_WIDE:
        root += f"/namespaces/{namespace or 'default'}"
    root += "/" + PLURALS.get(kind, kind.lower() + "s")
    return root + (f"/{name}" if name else "") + (f"/{sub}" if sub else "")


def path_of(o, sub=None):
    m = o["metadata"]
    return path(o["apiVersion"], o["kind"], m.get("namespace"), m["name"], sub)


class Api:
    """Thread-safe: a connection a thread, which is kept."""

    def __init__(self, host, port, token):
        self.host, self.port, self.token = host, port, token
        self.local = threading.local()

    def call(self, method, where, body=None, content_type="application/json"):
        for attempt in (1, 2):
            connection = getattr(self.local, "connection", None)
            if connection is None:
                context = ssl._create_unverified_context()  # the server's certificate is its own
                connection = self.local.connection = http.client.HTTPSConnection(self.host, self.port, context=context, timeout=30)
            try:
                connection.request(method, where, body, {"Authorization": f"Bearer {self.token}", "Content-Type": content_type})
                response = connection.getresponse()
                text = response.read().decode()
                break
            except (http.client.HTTPException, OSError):
                self.local.connection = None
                if attempt == 2:
                    raise
        if response.status >= 300:
            raise ApiError(response.status, text)
        return json.loads(text) if text.startswith("{") else text

    def apply(self, *objects, manager="lab", sub=None):
        """Server-side apply, as `kubectl apply --server-side --force-conflicts`."""
        query = urlencode({"fieldManager": manager, "force": "true"})
        for o in objects:
            self.call("PATCH", f"{path_of(o, sub)}?{query}", json.dumps(o), "application/apply-patch+yaml")

    def merge(self, o, patch, sub=None):
        self.call("PATCH", path_of(o, sub), json.dumps(patch), "application/merge-patch+json")

    def delete(self, *objects):
        for o in objects:
            try:
                self.call("DELETE", path_of(o), json.dumps({"gracePeriodSeconds": 0}))
            except ApiError as e:
                if e.status != 404:
                    raise

    def get(self, api_version, kind, name, namespace=None):
        try:
            return self.call("GET", path(api_version, kind, namespace, name))
        except ApiError as e:
            if e.status == 404:
                return None
            raise

    def items(self, api_version, kind, namespace=None):
        where = path(api_version, kind, namespace)
        if namespace is None:
            where = where.replace("/namespaces/default", "")
        return self.call("GET", where).get("items", [])

    def finalize(self, namespace):
        """What the namespace controller would do at the end of a deletion."""
        o = self.get("v1", "Namespace", namespace)
        if o:
            self.delete(obj("v1", "Namespace", namespace))
            o["spec"] = {"finalizers": []}
            o["metadata"].pop("resourceVersion", None)
            self.call("PUT", f"/api/v1/namespaces/{namespace}/finalize", json.dumps(o))
