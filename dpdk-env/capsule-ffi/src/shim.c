/*
 * What capsule calls of DPDK and cannot call as it is: inline functions, large structures, and what has been renamed since
 * DPDK 19.11, for which capsule was written. `lib.rs` declares each of them; the two files are read side by side.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

/* ---- Structures whose fields capsule reads and writes in place: lib.rs has them just so ---- */

#define AT(structure, field, offset) \
	_Static_assert(offsetof(struct structure, field) == (offset), #structure "." #field " is elsewhere: see lib.rs")

AT(rte_mbuf, buf_addr, 0);
AT(rte_mbuf, data_off, 16);
AT(rte_mbuf, refcnt, 18);
AT(rte_mbuf, nb_segs, 20);
AT(rte_mbuf, ol_flags, 24);
AT(rte_mbuf, pkt_len, 36);
AT(rte_mbuf, data_len, 40);
AT(rte_mbuf, buf_len, 54);
AT(rte_mbuf, pool, 56);
_Static_assert(sizeof(struct rte_mbuf) == 128, "struct rte_mbuf has another size: see lib.rs");

AT(rte_mempool, name, 0);
_Static_assert(RTE_MEMPOOL_NAMESIZE == 26, "a mempool's name has another length: see lib.rs");
AT(rte_mempool, flags, 56);
AT(rte_mempool, socket_id, 60);
AT(rte_mempool, size, 64);
AT(rte_mempool, cache_size, 68);

_Static_assert(RTE_ETH_RSS_IP == 0xa38c && RTE_ETH_RSS_TCP == 0x10410 && RTE_ETH_RSS_UDP == 0x20820 &&
	       RTE_ETH_RSS_SCTP == 0x1040, "a kind of flow has another number: see lib.rs");
_Static_assert(RTE_ETH_MQ_RX_RSS == 1, "distribution by a hash has another number: see lib.rs");
_Static_assert(RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE == 0x10000, "an offload has another number: see lib.rs");
_Static_assert(RTE_MBUF_DEFAULT_BUF_SIZE == 2176, "a buffer has another size: see lib.rs");
_Static_assert(RTE_PKTMBUF_HEADROOM == 128, "the headroom has another size: see lib.rs");

/* ---- Inline functions ---- */

int capsule_ffi_errno(void)
{
	return rte_errno;
}

struct rte_mbuf *capsule_ffi_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

int capsule_ffi_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void capsule_ffi_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

void capsule_ffi_put_bulk(struct rte_mempool *pool, void *const *objects, unsigned int count)
{
	rte_mempool_put_bulk(pool, objects, count);
}

/* Frames that no single buffer could hold, by port. Written where one is refused, which is rare. */
static uint64_t refused[RTE_MAX_ETHPORTS];

uint64_t capsule_ffi_refused(uint16_t port)
{
	return port < RTE_MAX_ETHPORTS ? __atomic_load_n(&refused[port], __ATOMIC_RELAXED) : 0;
}

/* Whether a frame is all in its own buffer, behind the first cache line of the headroom. */
static inline int lies_well(const struct rte_mbuf *m)
{
	return m->nb_segs == 1 && m->data_off >= RTE_CACHE_LINE_SIZE && m->buf_addr == (const char *)m + sizeof(*m);
}

/* Makes a received frame one that lies in one buffer, as it was on the wire. */
static int unify(struct rte_mbuf **mbuf)
{
	struct rte_mbuf *m = *mbuf;

	if (m->nb_segs != 1 && rte_pktmbuf_linearize(m) != 0)
		return -1;
	if ((m->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED) != 0 && rte_vlan_insert(mbuf) != 0)
		return -1;
	return lies_well(*mbuf) ? 0 : -1;
}

/* Receives a burst. capsule knows frames in one segment only; what cannot be made one is freed and counted. */
uint16_t capsule_ffi_receive(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t most)
{
	uint16_t count = rte_eth_rx_burst(port, queue, mbufs, most);
	uint16_t kept = 0;

	for (uint16_t i = 0; i < count; i++) {
		struct rte_mbuf *m = mbufs[i];

		if (unlikely(!lies_well(m) || (m->ol_flags & RTE_MBUF_F_RX_VLAN_STRIPPED) != 0) && unify(&m) != 0) {
			rte_pktmbuf_free(mbufs[i]);
			__atomic_fetch_add(&refused[port], 1, __ATOMIC_RELAXED);
			continue;
		}
		mbufs[kept++] = m;
	}
	return kept;
}

uint16_t capsule_ffi_transmit(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, mbufs, count);
}

/* ---- Large structures: the fields that capsule knows, in structures of this crate's ---- */

struct info {
	const char *driver_name;
	uint64_t rx_offload_capa;
	uint64_t tx_offload_capa;
	uint64_t flow_type_rss_offloads;
	uint16_t max_rx_queues;
	uint16_t max_tx_queues;
};

int capsule_ffi_info(uint16_t port, struct info *info)
{
	struct rte_eth_dev_info all;
	int error = rte_eth_dev_info_get(port, &all);

	if (error != 0)
		return error;
	*info = (struct info){
		.driver_name = all.driver_name,
		.rx_offload_capa = all.rx_offload_capa,
		.tx_offload_capa = all.tx_offload_capa,
		.flow_type_rss_offloads = all.flow_type_rss_offloads,
		.max_rx_queues = all.max_rx_queues,
		.max_tx_queues = all.max_tx_queues,
	};
	return 0;
}

struct conf {
	uint32_t rx_mq_mode;
	uint64_t rss_hf;
	uint64_t tx_offloads;
};

int capsule_ffi_configure(uint16_t port, uint16_t rx_queues, uint16_t tx_queues, const struct conf *conf)
{
	struct rte_eth_conf all;

	memset(&all, 0, sizeof(all));
	all.rxmode.mq_mode = conf->rx_mq_mode;
	all.rx_adv_conf.rss_conf.rss_hf = conf->rss_hf;
	all.txmode.offloads = conf->tx_offloads;
	return rte_eth_dev_configure(port, rx_queues, tx_queues, &all);
}
