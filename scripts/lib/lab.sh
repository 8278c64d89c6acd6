# shellcheck shell=bash
# Network namespaces around a gateway, for the demo and the tests. To be sourced.
#
#   client 198.51.100.10 --+                                                              +-- web 10.0.1.10
#                          +-- internet (router) ---- wan [ gw ] lan ---- vpc (switch) ---+
#   server 198.51.100.20 --+   203.0.113.1/24                                             +-- app 10.0.1.20
#
# Every namespace is called PREFIX-NAME and holds its own devices: nothing is made outside of them. The gateway's
# namespace gw has no addresses: they are the gateway's own matter. The router sends 203.0.113.0/24 on the link.
# Devices have as many queues as LAB_QUEUES says.

LAB_QUEUES=${LAB_QUEUES:-2}

# Names of the prefix's namespaces.
lab_namespaces() {
    local prefix=$1
    ip netns list | awk -v prefix="$prefix-" 'index($1, prefix) == 1 { print $1 }'
}

# Sets a kernel parameter, where the kernel has it. Arguments: NAMESPACE PATH VALUE
lab_set() {
    # shellcheck disable=SC2016 # the dollars are the inner shell's
    ip netns exec "$1" sh -c '[ ! -e "/proc/sys/net/$0" ] || echo "$1" >"/proc/sys/net/$0"' "$2" "$3"
}

# A namespace with a loopback device and without IPv6, which would send frames of its own.
lab_namespace() {
    local namespace=$1
    ip netns add "$namespace"
    lab_set "$namespace" ipv6/conf/all/disable_ipv6 1
    lab_set "$namespace" ipv6/conf/default/disable_ipv6 1
    ip -n "$namespace" link set lo up
}

# A cable between two namespaces. Arguments: NAMESPACE DEVICE NAMESPACE DEVICE
lab_cable() {
    local queues=(numtxqueues "$LAB_QUEUES" numrxqueues "$LAB_QUEUES")
    ip link add "$2" netns "$1" "${queues[@]}" type veth peer name "$4" netns "$3" "${queues[@]}"
    ip -n "$1" link set "$2" up
    ip -n "$3" link set "$4" up
}

# Has a device send by the queue of the core that sends, where kernels differ in what they choose. Arguments: NAMESPACE DEVICE
lab_queue_by_core() {
    local queue
    for ((queue = 0; queue < LAB_QUEUES; queue++)); do
        # shellcheck disable=SC2016 # the dollars are the inner shell's
        ip netns exec "$1" sh -c 'printf "%x" "$((1 << $1))" >"/sys/class/net/$0/queues/tx-$1/xps_cpus"' "$2" "$queue"
    done
}

# A host with one device and a default route. Arguments: NAMESPACE ADDRESS/LENGTH ROUTER SWITCH PORT
lab_host() {
    lab_namespace "$1"
    lab_cable "$1" eth0 "$4" "$5"
    ip -n "$1" address add "$2" dev eth0
    ip -n "$1" route add default via "$3"
}

# A switch: a namespace with a bridge that its later ports join. Arguments: NAMESPACE
lab_switch() {
    lab_namespace "$1"
    ip -n "$1" link add br0 type bridge
    ip -n "$1" link set br0 up
}

# Arguments: NAMESPACE PORT
lab_join() {
    ip -n "$1" link set "$2" master br0
}

# The Internet: a router with a client and a server behind it. Arguments: PREFIX [ATTACHMENT], see lab_vpc
lab_internet() {
    local prefix=$1 attachment=${2-gw/wan}
    lab_switch "$prefix-internet"
    lab_cable "$prefix-${attachment%/*}" "${attachment#*/}" "$prefix-internet" gw
    ip -n "$prefix-internet" address add 203.0.113.1/24 dev gw
    ip -n "$prefix-internet" address add 198.51.100.1/24 dev br0
    lab_set "$prefix-internet" ipv4/ip_forward 1
    # The router's errors are evidence here, so they are not to be rationed.
    lab_set "$prefix-internet" ipv4/icmp_ratelimit 0
    local name
    for name in client server; do
        local last=10
        [[ "$name" == client ]] || last=20
        lab_host "$prefix-$name" "198.51.100.$last/24" 198.51.100.1 "$prefix-internet" "$name"
        lab_join "$prefix-internet" "$name"
    done
}

# A VPC: a switch, on a device NAMESPACE/DEVICE, and hosts.
# Arguments: PREFIX VPC ATTACHMENT ROUTER NAME=ADDRESS/LENGTH ...
lab_vpc() {
    local prefix=$1 vpc=$2 attachment=$3 router=$4 host
    shift 4
    lab_switch "$prefix-$vpc"
    lab_cable "$prefix-${attachment%/*}" "${attachment#*/}" "$prefix-$vpc" gw
    lab_join "$prefix-$vpc" gw
    for host in "$@"; do
        lab_host "$prefix-${host%%=*}" "${host#*=}" "$router" "$prefix-$vpc" "${host%%=*}"
        lab_join "$prefix-$vpc" "${host%%=*}"
    done
}

# The whole picture above. Arguments: PREFIX
lab_up() {
    lab_namespace "$1-gw"
    lab_internet "$1"
    lab_vpc "$1" vpc gw/lan 10.0.1.1 web=10.0.1.10/24 app=10.0.1.20/24
}

# Has the neighbours of the gateway cut their TCP segments themselves, as a wire would have them. Arguments: PREFIX
lab_unsegmented() {
    local name
    for name in $(lab_namespaces "$1"); do
        [[ "$name" != "$1-gw" ]] || continue
        ! ip -n "$name" link show gw >/dev/null 2>&1 || ip netns exec "$name" ethtool -K gw tso off gso off
    done
}

# A second VPC on the gateway's device lan2, whose hosts have the addresses of the first one's. Arguments: PREFIX
lab_second_vpc() {
    lab_vpc "$1" vpc2 gw/lan2 10.0.1.1 web2=10.0.1.10/24 app2=10.0.1.20/24
}

# The same with VLANs: the gateway's devices wan and lan lead to a namespace with the devices wan-trunk and lan-trunk, and
# with untagged devices of the Internet (wan-100) and of two VPCs with the same addresses (lan-10, lan-20). Something in
# there has to move the frames (tests/namespaces/tagger.py). Arguments: PREFIX
lab_up_tagged() {
    local prefix=$1 host
    lab_namespace "$prefix-gw"
    lab_namespace "$prefix-tagger"
    lab_cable "$prefix-gw" wan "$prefix-tagger" wan-trunk
    lab_cable "$prefix-gw" lan "$prefix-tagger" lan-trunk
    lab_internet "$prefix" tagger/wan-100
    lab_vpc "$prefix" vpc tagger/lan-10 10.0.1.1 web=10.0.1.10/24 app=10.0.1.20/24
    lab_vpc "$prefix" vpc2 tagger/lan-20 10.0.1.1 web2=10.0.1.10/24 app2=10.0.1.20/24
    # A raw socket sees frames before their checksums are finished and before they are cut: so no offloads.
    for host in client server web app web2 app2; do
        ip netns exec "$prefix-$host" ethtool -K eth0 tx off >/dev/null
    done
}

# Ends everything that runs in the prefix's namespaces and removes them. Also after an interrupted run.
# Arguments: PREFIX
lab_down() {
    local namespace pids
    for namespace in $(lab_namespaces "$1"); do
        # The gateway first gets the chance to give its ports back.
        pids=$(ip netns pids "$namespace" 2>/dev/null) || pids=
        # shellcheck disable=SC2086 # a list of numbers
        [[ -z "$pids" ]] || kill -TERM $pids 2>/dev/null || true
    done
    local tries
    for tries in {1..30}; do
        pids=
        for namespace in $(lab_namespaces "$1"); do
            pids+=" $(ip netns pids "$namespace" 2>/dev/null | tr '\n' ' ')"
        done
        [[ -n "${pids// /}" ]] || break
        # shellcheck disable=SC2086 # a list of numbers
        ((tries < 20)) || kill -KILL $pids 2>/dev/null || true
        sleep 0.1
    done
    for namespace in $(lab_namespaces "$1"); do
        ip netns delete "$namespace" || true
    done
}

# Waits until a command succeeds. Arguments: SECONDS COMMAND ...
wait_for() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

# Whether something listens on a TCP port in a namespace. Arguments: NAMESPACE PORT
listens() {
    ip netns exec "$1" ss -Hltn "sport = :$2" | grep -q .
}

# A web server in the foreground. Its pages name the server, who asked and on which port; files below DIRECTORY/files
# can be fetched from /files/. Arguments: NAMESPACE DIRECTORY TITLE PORT ...
lab_web_server() {
    local namespace=$1 directory=$2 title=$3
    shift 3
    mkdir -p "$directory/files"
    cat >"$directory/nginx.conf" <<EOF
# A user namespace has no other user to change to.
user root;
master_process off;
daemon off;
pid $directory/nginx.pid;
error_log $directory/error.log;
events {}
http {
    access_log $directory/access.log;
    client_body_temp_path $directory/body;
    proxy_temp_path $directory/proxy;
    fastcgi_temp_path $directory/fastcgi;
    uwsgi_temp_path $directory/uwsgi;
    scgi_temp_path $directory/scgi;
    client_max_body_size 0;
    server {
$(printf '        listen %s;\n' "$@")
        location / {
            default_type text/html;
            return 200 "<title>$title</title>\nserver port \$server_port\nclient \$remote_addr\n";
        }
        location /files/ {
            root $directory;
            dav_methods PUT;
        }
    }
}
EOF
    exec ip netns exec "$namespace" nginx -e "$directory/error.log" -p "$directory" -c "$directory/nginx.conf"
}
