# Certificates of a cluster that lives for a test. Source this with PKI set to a folder.
# All keys are EC P-256: the whole set takes a fraction of a second.

pki_key() { # NAME
    openssl ecparam -name prime256v1 -genkey -noout -out "$PKI/$1.key"
}

pki_ca() {
    if [ -s "$PKI/ca.crt" ]; then return; fi
    pki_key ca
    openssl req -x509 -new -key "$PKI/ca.key" -sha256 -days 30 -subj '/CN=test cluster' \
        -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign,cRLSign' -out "$PKI/ca.crt"
}

pki_leaf() { # NAME SUBJECT [ALTERNATIVE-NAMES]: a server's, if it has names, else a client's
    if [ -s "$PKI/$1.crt" ]; then return; fi
    local extensions=$'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth'
    if [ -n "${3:-}" ]; then extensions+=$',serverAuth\nsubjectAltName='$3; fi
    pki_key "$1"
    openssl req -new -key "$PKI/$1.key" -sha256 -subj "$2" |
        openssl x509 -req -CA "$PKI/ca.crt" -CAkey "$PKI/ca.key" -set_serial "0x$(openssl rand -hex 8)" -sha256 -days 30 \
            -extfile <(echo "$extensions") -out "$PKI/$1.crt" 2>/dev/null
}

pki_control_plane() { # ADDRESS…
    mkdir -p "$PKI"
    pki_ca
    local names=DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc address
    for address; do names+=,IP:$address; done
    pki_leaf apiserver /CN=kube-apiserver "$names"
    pki_leaf admin /O=system:masters/CN=admin
    pki_leaf controller-manager /CN=system:kube-controller-manager
    pki_leaf scheduler /CN=system:kube-scheduler
    pki_leaf kubelet-client /O=system:masters/CN=apiserver-kubelet-client
    if [ ! -s "$PKI/sa.pub" ]; then
        pki_key sa
        openssl ec -in "$PKI/sa.key" -pubout -out "$PKI/sa.pub" 2>/dev/null
    fi
}

pki_kubeconfig() { # FILE SERVER USER: certificates are in it, so that it can be moved
    cat >"$1" <<-YAML
	apiVersion: v1
	kind: Config
	clusters:
	- name: test
	  cluster:
	    server: $2
	    certificate-authority-data: $(base64 -w0 "$PKI/ca.crt")
	users:
	- name: $3
	  user:
	    client-certificate-data: $(base64 -w0 "$PKI/$3.crt")
	    client-key-data: $(base64 -w0 "$PKI/$3.key")
	contexts:
	- name: test
	  context: {cluster: test, user: $3}
	current-context: test
	YAML
}
