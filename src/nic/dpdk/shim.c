/*
 * What of DPDK's interface is inline functions, macros and large structures, behind plain functions with plain numbers.
 * `sys.rs` declares each of them; the two files are read side by side.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Frames that are passed on at once; larger bursts go in several. */
#define CHUNK 64

/* ---- Log ---- */

typedef void (*natgate_log)(int level, const char *text, size_t length);

static natgate_log log_to;

static ssize_t write_log(void *cookie, const char *text, size_t length)
{
	(void)cookie;
	log_to(rte_log_cur_msg_loglevel(), text, length);
	return (ssize_t)length;
}

/* Sends what DPDK logs to a function. */
int natgate_dpdk_log(natgate_log function)
{
	cookie_io_functions_t functions = { .write = write_log };
	FILE *stream = fopencookie(NULL, "w", functions);

	if (stream == NULL)
		return -errno;
	setvbuf(stream, NULL, _IOLBF, BUFSIZ);
	log_to = function;
	return rte_openlog_stream(stream);
}

/* ---- Errors and threads ---- */

int natgate_dpdk_errno(void)
{
	return rte_errno;
}

int natgate_dpdk_is_registered(void)
{
	return rte_lcore_id() != LCORE_ID_ANY;
}

/* ---- Buffers ---- */

/*
 * A buffer is known by where its bytes start: behind the mbuf, without private data between. While the gateway has it, the
 * mbuf is as it was in the pool: one segment, one reference.
 */
static inline struct rte_mbuf *mbuf_of(void *start)
{
	return (struct rte_mbuf *)((char *)start - sizeof(struct rte_mbuf));
}

struct bounds {
	uintptr_t lowest;
	uintptr_t highest;
};

static void widen(struct rte_mempool *pool, void *opaque, void *object, unsigned int index)
{
	struct bounds *bounds = opaque;
	struct rte_mbuf *mbuf = object;
	uintptr_t start = (uintptr_t)mbuf->buf_addr;

	(void)pool;
	(void)index;
	if (bounds->lowest == 0 || start < bounds->lowest)
		bounds->lowest = start;
	if (start > bounds->highest)
		bounds->highest = start;
}

/* A pool of `count` buffers of `size` bytes; tells the lowest and the highest start of a buffer. */
struct rte_mempool *natgate_dpdk_pool(const char *name, unsigned int count, uint16_t size, int node, uintptr_t *lowest,
				      uintptr_t *highest)
{
	struct bounds bounds = { 0, 0 };
	unsigned int cache = RTE_MIN(256u, count / 16);
	struct rte_mempool *pool = rte_pktmbuf_pool_create(name, count, cache, 0, size, node);

	if (pool == NULL)
		return NULL;
	rte_mempool_obj_iter(pool, widen, &bounds);
	*lowest = bounds.lowest;
	*highest = bounds.highest;
	return pool;
}

/* Takes `count` buffers or none. */
int natgate_dpdk_take(struct rte_mempool *pool, void **starts, unsigned int count)
{
	int error = rte_mempool_get_bulk(pool, starts, count);

	if (error == 0)
		for (unsigned int i = 0; i < count; i++)
			starts[i] = (char *)starts[i] + sizeof(struct rte_mbuf);
	return error;
}

/* Takes buffers back into the pool, or without one each into its own; `starts` is overwritten. */
void natgate_dpdk_give(struct rte_mempool *pool, void **starts, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		starts[i] = mbuf_of(starts[i]);
	if (likely(pool != NULL))
		rte_mempool_put_bulk(pool, starts, count);
	else
		rte_pktmbuf_free_bulk((struct rte_mbuf **)starts, count);
}

/* ---- Frames ---- */

#define CHECKSUM_GOOD 1
/* Only the pseudo-header's sum is in the field. */
#define CHECKSUM_PARTIAL 2

struct frame {
	void *start;
	uint16_t head;
	uint16_t length;
	uint16_t flags;
};

/* The gateway's pools: one, or one for each NUMA node. */
struct pools {
	struct rte_mempool *const *all;
	unsigned int count;
};

static inline int is_of(const struct rte_mempool *pool, struct pools pools)
{
	for (unsigned int i = 0; i < pools.count; i++)
		if (likely(pool == pools.all[i]))
			return 1;
	return 0;
}

/* Makes a received frame one that lies in one buffer of the pools, as it was on the wire. */
static inline int unify(struct rte_mbuf **mbuf, struct pools pools)
{
	struct rte_mbuf *m = *mbuf;

	if (unlikely(!is_of(m->pool, pools) || mbuf_of(m->buf_addr) != m))
		return -1;
	if (unlikely(m->nb_segs != 1) && rte_pktmbuf_linearize(m) != 0)
		return -1;
	if (unlikely(m->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED) && rte_vlan_insert(mbuf) != 0)
		return -1;
	return 0;
}

/* Receives up to `most` frames into buffers of the pools; those that none could hold are added to `refused`. */
unsigned int natgate_dpdk_receive(uint16_t port, uint16_t queue, struct rte_mempool *const *all, unsigned int pool_count,
				  struct frame *frames, unsigned int most, uint64_t *refused)
{
	const struct pools pools = { all, pool_count };
	struct rte_mbuf *mbufs[CHUNK];
	unsigned int count = 0;

	while (count < most) {
		uint16_t want = (uint16_t)RTE_MIN(most - count, (unsigned int)CHUNK);
		uint16_t got = rte_eth_rx_burst(port, queue, mbufs, want);

		for (uint16_t i = 0; i < got; i++) {
			struct rte_mbuf *m = mbufs[i];
			uint64_t l4 = m->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK;

			if (unlikely(unify(&m, pools) != 0)) {
				rte_pktmbuf_free(mbufs[i]);
				*refused += 1;
				continue;
			}
			frames[count++] = (struct frame){
				.start = m->buf_addr,
				.head = m->data_off,
				.length = m->data_len,
				.flags = l4 == RTE_MBUF_F_RX_L4_CKSUM_GOOD ? CHECKSUM_GOOD :
					 l4 == RTE_MBUF_F_RX_L4_CKSUM_NONE ? CHECKSUM_PARTIAL : 0,
			};
		}
		if (got < want)
			break;
	}
	return count;
}

/* Sends frames; says how many were taken, from the front. */
unsigned int natgate_dpdk_transmit(uint16_t port, uint16_t queue, const struct frame *frames, unsigned int count)
{
	struct rte_mbuf *mbufs[CHUNK];
	unsigned int sent = 0;

	while (sent < count) {
		uint16_t chunk = (uint16_t)RTE_MIN(count - sent, (unsigned int)CHUNK);
		uint16_t taken;

		for (uint16_t i = 0; i < chunk; i++) {
			const struct frame *frame = &frames[sent + i];
			struct rte_mbuf *m = mbuf_of(frame->start);

			m->data_off = frame->head;
			m->data_len = frame->length;
			m->pkt_len = frame->length;
			m->ol_flags = 0;
			mbufs[i] = m;
		}
		taken = rte_eth_tx_burst(port, queue, mbufs, chunk);
		sent += taken;
		if (taken < chunk)
			break;
	}
	return sent;
}

/* Receives and gives back what waits in a queue, at most `most` frames. */
void natgate_dpdk_drain(uint16_t port, uint16_t queue, unsigned int most)
{
	struct rte_mbuf *mbufs[CHUNK];
	uint16_t got;

	while (most > 0 && (got = rte_eth_rx_burst(port, queue, mbufs, (uint16_t)RTE_MIN(most, (unsigned int)CHUNK))) > 0) {
		rte_pktmbuf_free_bulk(mbufs, got);
		most -= got;
	}
}

/* ---- Ports ---- */

struct wish {
	/* What it receives into. */
	struct rte_mempool *pool;
	/* Whether all that it sends comes from there, too. */
	uint8_t is_only_pool;
	uint16_t queues;
	uint16_t descriptors;
	/* Zero: as the port is. */
	uint16_t mtu;
	/* The key of its hash, which DPDK keeps by its address; none if it does not hash. */
	uint8_t *key;
	uint8_t key_length;
};

struct port {
	uint8_t mac[RTE_ETHER_ADDR_LEN];
	uint16_t mtu;
	uint16_t receive_queues;
	uint16_t transmit_queues;
	/* Entries of a queue's rings, as they are. */
	uint16_t receive_ring;
	uint16_t transmit_ring;
	int node;
	uint32_t interface;
	uint8_t checksums;
	uint8_t hashes;
	uint8_t fast_free;
	/* Bytes of the key of its hash, and entries of its indirection table; zero if it does not say. */
	uint8_t key_length;
	uint16_t table_length;
	char driver[32];
};

#define RX_CHECKSUMS (RTE_ETH_RX_OFFLOAD_UDP_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_CKSUM)
#define HASHED (RTE_ETH_RSS_IPV4 | RTE_ETH_RSS_FRAG_IPV4 | RTE_ETH_RSS_NONFRAG_IPV4_TCP | \
		RTE_ETH_RSS_NONFRAG_IPV4_UDP | RTE_ETH_RSS_NONFRAG_IPV4_OTHER)
/* What must be hashed with its ports. */
#define FLOWS (RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV4_UDP)

/* What a port is and can. */
int natgate_dpdk_port(uint16_t id, struct port *port)
{
	struct rte_eth_dev_info info;
	int error = rte_eth_dev_info_get(id, &info);

	memset(port, 0, sizeof(*port));
	if (error != 0)
		return error;
	port->receive_queues = info.max_rx_queues;
	port->transmit_queues = info.max_tx_queues;
	port->node = rte_eth_dev_socket_id(id);
	port->interface = info.if_index;
	port->hashes = (info.flow_type_rss_offloads & FLOWS) == FLOWS;
	port->key_length = info.hash_key_size;
	port->table_length = info.reta_size;
	snprintf(port->driver, sizeof(port->driver), "%s", info.driver_name ? info.driver_name : "");
	error = rte_eth_macaddr_get(id, (struct rte_ether_addr *)port->mac);
	return error != 0 ? error : rte_eth_dev_get_mtu(id, &port->mtu);
}

static int start(uint16_t id, const struct wish *wish, struct port *port, const char **step)
{
	struct rte_eth_dev_info info;
	struct rte_eth_conf conf;
	struct rte_eth_txconf transmit;
	uint16_t rx = wish->descriptors, tx = wish->descriptors;
	int error;

	memset(&conf, 0, sizeof(conf));
	*step = "asking what the port can";
	error = rte_eth_dev_info_get(id, &info);
	if (error != 0)
		return error;
	conf.rxmode.offloads = info.rx_offload_capa & RX_CHECKSUMS;
	if (wish->queues > 1 && (info.flow_type_rss_offloads & HASHED) != 0) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = info.flow_type_rss_offloads & HASHED;
		conf.rx_adv_conf.rss_conf.rss_key = wish->key;
		conf.rx_adv_conf.rss_conf.rss_key_len = wish->key_length;
	}
	/* Every frame is one segment with one reference. */
	if (wish->is_only_pool)
		conf.txmode.offloads = info.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
	port->checksums = conf.rxmode.offloads != 0;
	port->fast_free = conf.txmode.offloads != 0;
	conf.rxmode.mtu = wish->mtu;

	*step = "setting it up";
	error = rte_eth_dev_configure(id, wish->queues, wish->queues, &conf);
	if (error != 0 && wish->key != NULL) {
		/* It may have a key of its own, that it keeps. */
		conf.rx_adv_conf.rss_conf.rss_key = NULL;
		conf.rx_adv_conf.rss_conf.rss_key_len = 0;
		error = rte_eth_dev_configure(id, wish->queues, wish->queues, &conf);
	}
	if (error != 0)
		return error;
	*step = "choosing the length of its rings";
	error = rte_eth_dev_adjust_nb_rx_tx_desc(id, &rx, &tx);
	if (error != 0)
		return error;
	transmit = info.default_txconf;
	transmit.offloads = conf.txmode.offloads;
	for (uint16_t queue = 0; queue < wish->queues; queue++) {
		*step = "setting up a receive queue";
		error = rte_eth_rx_queue_setup(id, queue, rx, (unsigned int)port->node, NULL, wish->pool);
		if (error != 0)
			return error;
		*step = "setting up a transmit queue";
		error = rte_eth_tx_queue_setup(id, queue, tx, (unsigned int)port->node, &transmit);
		if (error != 0)
			return error;
	}
	*step = "setting its MTU";
	if (wish->mtu != 0 && wish->mtu != port->mtu) {
		error = rte_eth_dev_set_mtu(id, wish->mtu);
		if (error != 0)
			return error;
	}
	*step = "starting it";
	error = rte_eth_dev_start(id);
	if (error != 0)
		return error;
	port->receive_ring = rx;
	port->transmit_ring = tx;
	if (wish->mtu != 0)
		port->mtu = wish->mtu;
	return 0;
}

/*
 * Sets a port up and starts it. `step` tells what failed; the port is closed then, for its queues would keep the pool, and the
 * port the key, beyond the life that the caller gives them.
 */
int natgate_dpdk_start(uint16_t id, const struct wish *wish, struct port *port, const char **step)
{
	int error = start(id, wish, port, step);

	if (error != 0)
		rte_eth_dev_close(id);
	return error;
}

/* ---- Distribution over queues ---- */

#define MOST_KEY 64
#define MOST_TABLE RTE_ETH_RSS_RETA_SIZE_512 * 8

/* The key of a started port's hash, with room for MOST_KEY bytes; negative also if it does not hash TCP and UDP by their ports. */
int natgate_dpdk_key(uint16_t id, uint8_t *key, uint8_t *length)
{
	struct rte_eth_dev_info info;
	struct rte_eth_rss_conf conf;
	int error = rte_eth_dev_info_get(id, &info);

	if (error != 0)
		return error;
	memset(&conf, 0, sizeof(conf));
	memset(key, 0, MOST_KEY);
	conf.rss_key = key;
	conf.rss_key_len = info.hash_key_size != 0 ? RTE_MIN(info.hash_key_size, MOST_KEY) : 40;
	error = rte_eth_dev_rss_hash_conf_get(id, &conf);
	if (error != 0)
		return error;
	if ((conf.rss_hf & FLOWS) != FLOWS)
		return -ENOTSUP;
	*length = RTE_MIN(conf.rss_key_len, MOST_KEY);
	return *length != 0 ? 0 : -ENOTSUP;
}

int natgate_dpdk_set_key(uint16_t id, uint8_t *key, uint8_t length)
{
	struct rte_eth_dev_info info;
	struct rte_eth_rss_conf conf;
	int error = rte_eth_dev_info_get(id, &info);

	if (error != 0)
		return error;
	memset(&conf, 0, sizeof(conf));
	conf.rss_key = key;
	conf.rss_key_len = length;
	conf.rss_hf = info.flow_type_rss_offloads & HASHED;
	return rte_eth_dev_rss_hash_update(id, &conf);
}

/* Writes (or reads) the queue of each entry of the indirection table. */
int natgate_dpdk_table(uint16_t id, uint16_t *queues, uint16_t length, int write)
{
	struct rte_eth_rss_reta_entry64 table[MOST_TABLE / RTE_ETH_RETA_GROUP_SIZE];
	int error;

	if (length == 0 || length > MOST_TABLE)
		return -ENOTSUP;
	memset(table, 0, sizeof(table));
	for (uint16_t i = 0; i < length; i++) {
		struct rte_eth_rss_reta_entry64 *group = &table[i / RTE_ETH_RETA_GROUP_SIZE];

		group->mask |= RTE_BIT64(i % RTE_ETH_RETA_GROUP_SIZE);
		group->reta[i % RTE_ETH_RETA_GROUP_SIZE] = queues[i];
	}
	if (write)
		return rte_eth_dev_rss_reta_update(id, table, length);
	error = rte_eth_dev_rss_reta_query(id, table, length);
	for (uint16_t i = 0; error == 0 && i < length; i++)
		queues[i] = table[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE];
	return error;
}

/* ---- What a port says of itself ---- */

/*
 * Calls the function with the name and the value of each of the port's own counters that is not zero. The names do not last.
 */
int natgate_dpdk_statistics(uint16_t id, void (*tell)(void *, const char *, uint64_t), void *whom)
{
	int count = rte_eth_xstats_get(id, NULL, 0), known;
	struct rte_eth_xstat_name *names;
	struct rte_eth_xstat *values;

	if (count <= 0)
		return count;
	names = calloc(count, sizeof(*names));
	values = calloc(count, sizeof(*values));
	known = names != NULL && values != NULL ? rte_eth_xstats_get_names(id, names, count) : -ENOMEM;
	if (known >= 0)
		known = RTE_MIN(RTE_MIN(known, rte_eth_xstats_get(id, values, count)), count);
	for (int i = 0; i < known; i++)
		if (values[i].id < (uint64_t)count && values[i].value != 0) {
			names[values[i].id].name[RTE_ETH_XSTATS_NAME_SIZE - 1] = '\0';
			tell(whom, names[values[i].id].name, values[i].value);
		}
	free(names);
	free(values);
	return known < 0 ? known : 0;
}

/* The speed of the link in Mbit/s if it is up, zero if it is down; negative where the port does not say. */
int64_t natgate_dpdk_speed(uint16_t id)
{
	struct rte_eth_link link;
	int error = rte_eth_link_get_nowait(id, &link);

	if (error != 0)
		return error;
	return link.link_status == RTE_ETH_LINK_UP ? (int64_t)RTE_MAX(link.link_speed, 1u) : 0;
}

/* Frames that the port missed, refused, and could not send. */
int natgate_dpdk_counters(uint16_t id, uint64_t *missed, uint64_t *refused, uint64_t *unsent)
{
	struct rte_eth_stats stats;
	int error = rte_eth_stats_get(id, &stats);

	if (error != 0)
		return error;
	*missed = stats.imissed + stats.rx_nombuf;
	*refused = stats.ierrors;
	*unsent = stats.oerrors;
	return 0;
}
