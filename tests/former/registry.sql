--
-- PostgreSQL database dump
--

\restrict 7XH1xYfgj9kKQUZA06fQojaK0vhiSyDbJnnXUo4U66Uyp9RiUIUtt1qbnBgasp9

-- Dumped from database version 15.18 (Debian 15.18-0+deb12u1)
-- Dumped by pg_dump version 15.18 (Debian 15.18-0+deb12u1)

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: backbones; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.backbones (
    weights_id character varying NOT NULL,
    preprocessing_id character varying NOT NULL,
    first_seen double precision NOT NULL
);


--
-- Name: leases; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.leases (
    task character varying NOT NULL,
    owner character varying,
    token bigint NOT NULL,
    expires_at double precision NOT NULL,
    seconds double precision NOT NULL
);


--
-- Name: live; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.live (
    task character varying NOT NULL,
    version integer NOT NULL,
    content_id character varying NOT NULL,
    generation integer NOT NULL,
    previous integer
);


--
-- Name: measurements; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.measurements (
    id integer NOT NULL,
    task character varying NOT NULL,
    version integer NOT NULL,
    name character varying NOT NULL,
    value double precision,
    quality character varying NOT NULL,
    detail json NOT NULL,
    at double precision NOT NULL
);


--
-- Name: measurements_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.measurements_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: measurements_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.measurements_id_seq OWNED BY public.measurements.id;


--
-- Name: promotions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.promotions (
    task character varying NOT NULL,
    generation integer NOT NULL,
    from_version integer,
    to_version integer NOT NULL,
    actor character varying NOT NULL,
    reason character varying NOT NULL,
    verdict character varying NOT NULL,
    gate json,
    at double precision NOT NULL
);


--
-- Name: runs; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.runs (
    run_id character varying NOT NULL,
    task character varying NOT NULL,
    owner character varying NOT NULL,
    fence bigint,
    started_at double precision NOT NULL,
    finished_at double precision,
    outcome character varying,
    detail json NOT NULL
);


--
-- Name: schema; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.schema (
    version integer NOT NULL,
    store_id character varying
);


--
-- Name: schema_version_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.schema_version_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: schema_version_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.schema_version_seq OWNED BY public.schema.version;


--
-- Name: versions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.versions (
    task character varying NOT NULL,
    number integer NOT NULL,
    content_id character varying NOT NULL,
    weights_id character varying NOT NULL,
    path character varying NOT NULL,
    parent integer,
    created_at double precision NOT NULL,
    metrics json NOT NULL,
    lineage json NOT NULL,
    state character varying NOT NULL
);


--
-- Name: measurements id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.measurements ALTER COLUMN id SET DEFAULT nextval('public.measurements_id_seq'::regclass);


--
-- Name: schema version; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.schema ALTER COLUMN version SET DEFAULT nextval('public.schema_version_seq'::regclass);


--
-- Data for Name: backbones; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.backbones VALUES ('sha256:472099696208eb5a43144b7201e5fd453b67da278661cac6ddc93257540db9ef', 'sha256:13a58861e69bc89e1b7e0643802475853c378ae22fa83ae6b278fb4730ba7e5f', 1795738859.828032);


--
-- Data for Name: leases; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.leases VALUES ('topics', NULL, 2, 1795738980.992762, 120);
INSERT INTO public.leases VALUES ('climb', NULL, 1, 1795738983.727418, 120);
INSERT INTO public.leases VALUES ('aspects', NULL, 1, 1795738985.419698, 120);


--
-- Data for Name: live; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.live VALUES ('topics', 2, 'sha256:40f2e7bd3c09a6a59544830a0e9735c46d039e4d66862891931c6d2f516ef0dd', 2, 1);
INSERT INTO public.live VALUES ('climb', 1, 'sha256:35fcd9e37543a3eb31e9e00fca7c20373d3865ea5e009f89d7ef66d646c3086a', 1, NULL);
INSERT INTO public.live VALUES ('aspects', 1, 'sha256:d36644a81b72cae9cb4a018ef9d56c6be0572b6e74ca6cba8da1d16d14278556', 1, NULL);


--
-- Data for Name: measurements; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.measurements VALUES (1, 'topics', 1, 'retraining, CPU seconds', 1.74, 'measured_counter', '{}', 1795738859.83547);
INSERT INTO public.measurements VALUES (2, 'topics', 1, 'retraining, joules', 10.44, 'modelled', '{"quality": "modelled", "value": 10.44, "low": 3.48, "high": 26.1, "source": "CPU seconds times 2/6/15 W per busy core"}', 1795738859.837818);
INSERT INTO public.measurements VALUES (3, 'topics', 2, 'retraining, CPU seconds', 1.49, 'measured_counter', '{}', 1795738863.691317);
INSERT INTO public.measurements VALUES (4, 'topics', 2, 'retraining, joules', 8.94, 'modelled', '{"quality": "modelled", "value": 8.94, "low": 2.98, "high": 22.35, "source": "CPU seconds times 2/6/15 W per busy core"}', 1795738863.693635);
INSERT INTO public.measurements VALUES (5, 'climb', 1, 'retraining, CPU seconds', 1.8, 'measured_counter', '{}', 1795738865.384346);
INSERT INTO public.measurements VALUES (6, 'climb', 1, 'retraining, joules', 10.8, 'modelled', '{"quality": "modelled", "value": 10.8, "low": 3.6, "high": 27.0, "source": "CPU seconds times 2/6/15 W per busy core"}', 1795738865.386533);
INSERT INTO public.measurements VALUES (7, 'aspects', 1, 'retraining, CPU seconds', 2.13, 'measured_counter', '{}', 1795738867.437256);
INSERT INTO public.measurements VALUES (8, 'aspects', 1, 'retraining, joules', 12.78, 'modelled', '{"quality": "modelled", "value": 12.78, "low": 4.26, "high": 31.95, "source": "CPU seconds times 2/6/15 W per busy core"}', 1795738867.439344);


--
-- Data for Name: promotions; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.promotions VALUES ('topics', 1, NULL, 1, 'grafts:23607:42a1ce55', 'nothing is live that says what it was made from', 'PASS', '{"verdict": "PASS", "split": "gate", "champion": null, "rows": {"all rows": 48, "1 to 16 tokens": 48, "17 to 32 tokens": 0, "33 to 64 tokens": 0, "label class0": 18, "label class1": 13, "label class2": 17}, "candidate": {"accuracy": 0.8958333333333334, "macro_f1": 0.8867724867724868, "matthews": 0.8424567843232224, "loss": 0.6087583700815836}, "champion_metrics": {"accuracy": 0.3541666666666667, "macro_f1": 0.17435897435897438, "matthews": 0.0, "loss": 645833301.3333334}, "checks": [{"name": "accuracy against the majority label", "verdict": "PASS", "found": 0.5416666666666667, "asked": 0.0, "rows": 48, "reason": "gain +0.5417 (+0.4167 to +0.6667), above 0 asked", "interval": [0.4166666666666667, 0.6666666666666666]}, {"name": "macro_f1, all rows", "verdict": "PASS", "found": 0.8867724867724868, "asked": 0.3, "rows": 48, "reason": "macro_f1 0.8868, at least 0.3 asked", "interval": null}]}', 1795738859.839151);
INSERT INTO public.promotions VALUES ('topics', 2, 1, 2, 'grafts:23790:1e00dada', '16 of 118 rows changed; at most retrain.warm_share', 'PASS', '{"verdict": "PASS", "split": "gate", "champion": 1, "rows": {"all rows": 62, "old rows": 48, "new rows": 14, "1 to 16 tokens": 62, "17 to 32 tokens": 0, "33 to 64 tokens": 0, "label class0": 22, "label class1": 19, "label class2": 21}, "candidate": {"accuracy": 0.8709677419354839, "macro_f1": 0.8727307398932114, "matthews": 0.8072122623476825, "loss": 0.6105948417417465}, "champion_metrics": {"accuracy": 0.8709677419354839, "macro_f1": 0.8678149273893956, "matthews": 0.8082880129428555, "loss": 0.6157058592765562}, "checks": [{"name": "accuracy against the champion, all rows", "verdict": "PASS", "found": 0.0, "asked": -0.5, "rows": 62, "reason": "difference +0.0000 (-0.0645 to +0.0484), at least -0.5000 asked", "interval": [-0.06451612903225801, 0.048387096774193505]}, {"name": "accuracy against the champion, old rows", "verdict": "PASS", "found": -0.02083333333333337, "asked": -0.5, "rows": 48, "reason": "difference -0.0208 (-0.0833 to +0.0417), at least -0.5000 asked", "interval": [-0.08333333333333326, 0.04166666666666663]}, {"name": "macro_f1, all rows", "verdict": "PASS", "found": 0.8727307398932114, "asked": 0.3, "rows": 62, "reason": "macro_f1 0.8727, at least 0.3 asked", "interval": null}]}', 1795738863.694922);
INSERT INTO public.promotions VALUES ('climb', 1, NULL, 1, 'grafts:23790:5b80a04b', 'nothing is live that says what it was made from', 'PASS', '{"verdict": "PASS", "split": "dev", "champion": null, "rows": {"all rows": 67, "1 to 16 tokens": 67, "17 to 32 tokens": 0, "33 to 64 tokens": 0, "label class0": 23, "label class1": 20, "label class2": 24}, "candidate": {"accuracy": 1.0, "macro_f1": 1.0, "matthews": 1.0, "loss": 0.22495369413005772}, "champion_metrics": {"accuracy": 0.34328358208955223, "macro_f1": 0.17037037037037037, "matthews": 0.0, "loss": 656716448.4776119}, "checks": [{"name": "accuracy against the majority label", "verdict": "PASS", "found": 0.6567164179104478, "asked": 0.0, "rows": 67, "reason": "gain +0.6567 (+0.5672 to +0.7463), above 0 asked", "interval": [0.5671641791044777, 0.7462686567164178]}]}', 1795738865.387797);
INSERT INTO public.promotions VALUES ('aspects', 1, NULL, 1, 'grafts:23790:d5b81f3d', 'nothing is live that says what it was made from', 'PASS', '{"verdict": "PASS", "split": "dev", "champion": null, "rows": {"all rows": 50, "1 to 16 tokens": 17, "17 to 32 tokens": 26, "33 to 64 tokens": 7, "label class0": 31, "label class1": 27, "label class2": 24}, "candidate": {"accuracy": 0.46, "macro_f1": 0.8440720569752828, "micro_f1": 0.8449197860962567, "average_precision": 0.9550050896318613, "loss": 1.3589407348632812}, "champion_metrics": {"accuracy": 0.14, "macro_f1": 0.44998244998245, "micro_f1": 0.5604395604395604, "average_precision": 0.5466666666666667, "loss": 1599999836.16}, "checks": [{"name": "macro_f1 against the majority label", "verdict": "PASS", "found": 0.39408960699283274, "asked": 0.0, "rows": 50, "reason": "gain +0.3941 (+0.3505 to +0.4443), above 0 asked", "interval": [0.3504973384441212, 0.44430191861230944]}]}', 1795738867.440647);


--
-- Data for Name: runs; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.runs VALUES ('c047451f6f884a71845d997118e0961c', 'topics', 'grafts:23607:42a1ce55', 1, 1795738856.927633, 1795738859.846129, 'promoted', '{"key": "831e38fd6ceade462670c807", "gate": "sha256:c4611a29f7fabae38a0031abf5bc72b6d6d1cb12a423bc39b7db977738724a1e", "generation": 0, "action": "scratch", "trains": true, "version": 1, "cpu_seconds": 1.74, "train_rows": 76, "reason": "nothing is live that says what it was made from", "predicted": {"cpu_seconds": null, "joules": {"quality": "unavailable", "value": null, "low": null, "high": null, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}}');
INSERT INTO public.runs VALUES ('cfb920f674734b2d844140b30ecc70ce', 'topics', 'grafts:23790:1e00dada', 2, 1795738861.026402, 1795738863.7012, 'promoted', '{"key": "9113d55052ee9dbc29b0e7d3", "gate": "sha256:c4611a29f7fabae38a0031abf5bc72b6d6d1cb12a423bc39b7db977738724a1e", "generation": 1, "action": "warm", "trains": true, "version": 2, "cpu_seconds": 1.49, "train_rows": 89, "reason": "16 of 118 rows changed; at most retrain.warm_share", "predicted": {"cpu_seconds": null, "joules": {"quality": "unavailable", "value": null, "low": null, "high": null, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}}');
INSERT INTO public.runs VALUES ('184ccb172961490a91c34e4cd6fa48db', 'climb', 'grafts:23790:5b80a04b', 1, 1795738863.735906, 1795738865.393665, 'promoted', '{"key": "aa45ae9144a125c8b6de7422", "gate": "sha256:e4782344113b7426315c9937c2a6e4e1782f876b29dbd6804e6e67273136ba9f", "generation": 0, "action": "scratch", "trains": true, "version": 1, "cpu_seconds": 1.8, "train_rows": 113, "reason": "nothing is live that says what it was made from", "predicted": {"cpu_seconds": null, "joules": {"quality": "unavailable", "value": null, "low": null, "high": null, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}}');
INSERT INTO public.runs VALUES ('0a4c940502e34031b62bf1141ed6129d', 'aspects', 'grafts:23790:d5b81f3d', 1, 1795738865.427277, 1795738867.447896, 'promoted', '{"key": "e0f2f773632f842000c299c3", "gate": "sha256:9d363577925c2b35d2d963ef6da5a631a93b27e5a351b935d3eadc2dc1225110", "generation": 0, "action": "scratch", "trains": true, "version": 1, "cpu_seconds": 2.13, "train_rows": 70, "reason": "nothing is live that says what it was made from", "predicted": {"cpu_seconds": null, "joules": {"quality": "unavailable", "value": null, "low": null, "high": null, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}}');


--
-- Data for Name: schema; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.schema VALUES (1, '5ebf65966b84432281fc2b60393c3d52');


--
-- Data for Name: versions; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.versions VALUES ('topics', 1, 'sha256:95255338ed7919e69c714a0ec8b1807e19dad2e9ab125e059a3660ff0b95aa05', 'sha256:472099696208eb5a43144b7201e5fd453b67da278661cac6ddc93257540db9ef', '95255338ed7919e69c714a0ec8b1807e19dad2e9ab125e059a3660ff0b95aa05', NULL, 1795738859.828032, '{"dev": {"accuracy": 0.8846153846153846, "macro_f1": 0.8804112554112554, "matthews": 0.831955706524721, "loss": 0.609148905827449}, "test": {"accuracy": 0.925, "macro_f1": 0.9279503105590061, "matthews": 0.8929919384897604, "loss": 0.5784759998321534}}', '{"fingerprint": {"source": "53b7e2ddcb2b44000fbd31923f53aff4", "rows": {"train": "sha256:1dd4c2b8a144bfdbcc6d71dc97d13709bc0ab0239843c4d85235fd73d144f899", "dev": "sha256:0188cbe695dfde18890ceddaf633e587241224c0222db408204b6c520d97c5f4", "gate": "sha256:18d940cfe7007631cbb34383350c55b2b2d0372b1b72dc48ac407edd46d75805", "test": "sha256:fe7b446f1f105c4660f7a2e06e1262daff613fd6c062fee8ffa73b25f2d30cc5"}, "config": "sha256:2ceb7f9c598a4d30347e3f41c7850f314e9b08db7aea9cd43782967e825a36a1", "graft": "sha256:d7b8421c91b8c38271f18f9fb3785aa09875280bf5326d3b3a56da4f0de51490", "weights_id": "sha256:472099696208eb5a43144b7201e5fd453b67da278661cac6ddc93257540db9ef", "preprocessing_id": "sha256:13a58861e69bc89e1b7e0643802475853c378ae22fa83ae6b278fb4730ba7e5f", "numerics": 1, "gate": "sha256:c4611a29f7fabae38a0031abf5bc72b6d6d1cb12a423bc39b7db977738724a1e"}, "action": "scratch", "reason": "nothing is live that says what it was made from", "changes": {"changes": {"dev": {"added": 26, "removed": 0, "relabelled": 0}, "gate": {"added": 48, "removed": 0, "relabelled": 0}, "test": {"added": 40, "removed": 0, "relabelled": 0}, "train": {"added": 76, "removed": 0, "relabelled": 0}}, "rows": {"train": 76, "dev": 26, "gate": 48, "test": 40}, "labels_added": ["class0", "class1", "class2"], "labels_removed": [], "drift": [{"what": "embeddings", "effect": null, "notable": false, "rows": [0, 76], "reason": "nothing to compare with"}], "changed": 102, "share": 1.0}, "predicted": {"cpu_seconds": null, "joules": {"quality": "unavailable", "value": null, "low": null, "high": null, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}, "measured": {"wall_seconds": 1.584, "cpu_seconds": 1.74, "peak_bytes": 173871104, "flops": 230723072.0, "bytes_moved": 49675008.0, "watts": 6.59, "joules": {"quality": "modelled", "value": 10.44, "low": 3.48, "high": 26.1, "source": "CPU seconds times 2/6/15 W per busy core"}, "quality": "measured_counter"}, "rows_computed": 76, "gate": {"verdict": "PASS", "split": "gate", "champion": null, "rows": {"all rows": 48, "1 to 16 tokens": 48, "17 to 32 tokens": 0, "33 to 64 tokens": 0, "label class0": 18, "label class1": 13, "label class2": 17}, "candidate": {"accuracy": 0.8958333333333334, "macro_f1": 0.8867724867724868, "matthews": 0.8424567843232224, "loss": 0.6087583700815836}, "champion_metrics": {"accuracy": 0.3541666666666667, "macro_f1": 0.17435897435897438, "matthews": 0.0, "loss": 645833301.3333334}, "checks": [{"name": "accuracy against the majority label", "verdict": "PASS", "found": 0.5416666666666667, "asked": 0.0, "rows": 48, "reason": "gain +0.5417 (+0.4167 to +0.6667), above 0 asked", "interval": [0.4166666666666667, 0.6666666666666666]}, {"name": "macro_f1, all rows", "verdict": "PASS", "found": 0.8867724867724868, "asked": 0.3, "rows": 48, "reason": "macro_f1 0.8868, at least 0.3 asked", "interval": null}]}, "run_id": "c047451f6f884a71845d997118e0961c"}', 'published');
INSERT INTO public.versions VALUES ('topics', 2, 'sha256:40f2e7bd3c09a6a59544830a0e9735c46d039e4d66862891931c6d2f516ef0dd', 'sha256:472099696208eb5a43144b7201e5fd453b67da278661cac6ddc93257540db9ef', '40f2e7bd3c09a6a59544830a0e9735c46d039e4d66862891931c6d2f516ef0dd', 1, 1795738863.685426, '{"dev": {"accuracy": 0.896551724137931, "macro_f1": 0.8897028897028897, "matthews": 0.8465053357699788, "loss": 0.602181730599239}, "test": {"accuracy": 0.95, "macro_f1": 0.9526143790849672, "matthews": 0.9272456028093456, "loss": 0.5702116012573242}}', '{"fingerprint": {"source": "8dac2766517f82643836911da39b71d8", "rows": {"train": "sha256:524a2bf6ed81159d835b53f4baaa3af097dcd1df4e27ba1c398ebc7004fefdb2", "dev": "sha256:d56a6d9ff86e4addd493f2896899df29d4a562f5e888b9496c9afe06040b260e", "gate": "sha256:b6a773f34d321d25cb744c85a8420fb53c9ba5e4fc8b832baa930638709286a7", "test": "sha256:fe7b446f1f105c4660f7a2e06e1262daff613fd6c062fee8ffa73b25f2d30cc5"}, "config": "sha256:2ceb7f9c598a4d30347e3f41c7850f314e9b08db7aea9cd43782967e825a36a1", "graft": "sha256:d7b8421c91b8c38271f18f9fb3785aa09875280bf5326d3b3a56da4f0de51490", "weights_id": "sha256:472099696208eb5a43144b7201e5fd453b67da278661cac6ddc93257540db9ef", "preprocessing_id": "sha256:13a58861e69bc89e1b7e0643802475853c378ae22fa83ae6b278fb4730ba7e5f", "numerics": 1, "gate": "sha256:c4611a29f7fabae38a0031abf5bc72b6d6d1cb12a423bc39b7db977738724a1e"}, "action": "warm", "reason": "16 of 118 rows changed; at most retrain.warm_share", "changes": {"changes": {"dev": {"added": 3, "removed": 0, "relabelled": 0}, "gate": {"added": 14, "removed": 0, "relabelled": 0}, "test": {"added": 0, "removed": 0, "relabelled": 0}, "train": {"added": 13, "removed": 0, "relabelled": 0}}, "rows": {"train": 89, "dev": 29, "gate": 62, "test": 40}, "labels_added": [], "labels_removed": [], "drift": [{"what": "labels", "effect": null, "notable": false, "rows": [76, 13], "reason": "needs 100 rows on each side"}, {"what": "lengths", "effect": null, "notable": false, "rows": [76, 13], "reason": "needs 100 rows on each side"}, {"what": "embeddings", "effect": null, "notable": false, "rows": [76, 13], "reason": "needs 100 rows on each side"}], "changed": 16, "share": 0.135593}, "predicted": {"cpu_seconds": null, "joules": {"quality": "unavailable", "value": null, "low": null, "high": null, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}, "measured": {"wall_seconds": 1.415, "cpu_seconds": 1.49, "peak_bytes": 142249984, "flops": 171737344.0, "bytes_moved": 37612544.0, "watts": 6.32, "joules": {"quality": "modelled", "value": 8.94, "low": 2.98, "high": 22.35, "source": "CPU seconds times 2/6/15 W per busy core"}, "quality": "measured_counter"}, "rows_computed": 0, "gate": {"verdict": "PASS", "split": "gate", "champion": 1, "rows": {"all rows": 62, "old rows": 48, "new rows": 14, "1 to 16 tokens": 62, "17 to 32 tokens": 0, "33 to 64 tokens": 0, "label class0": 22, "label class1": 19, "label class2": 21}, "candidate": {"accuracy": 0.8709677419354839, "macro_f1": 0.8727307398932114, "matthews": 0.8072122623476825, "loss": 0.6105948417417465}, "champion_metrics": {"accuracy": 0.8709677419354839, "macro_f1": 0.8678149273893956, "matthews": 0.8082880129428555, "loss": 0.6157058592765562}, "checks": [{"name": "accuracy against the champion, all rows", "verdict": "PASS", "found": 0.0, "asked": -0.5, "rows": 62, "reason": "difference +0.0000 (-0.0645 to +0.0484), at least -0.5000 asked", "interval": [-0.06451612903225801, 0.048387096774193505]}, {"name": "accuracy against the champion, old rows", "verdict": "PASS", "found": -0.02083333333333337, "asked": -0.5, "rows": 48, "reason": "difference -0.0208 (-0.0833 to +0.0417), at least -0.5000 asked", "interval": [-0.08333333333333326, 0.04166666666666663]}, {"name": "macro_f1, all rows", "verdict": "PASS", "found": 0.8727307398932114, "asked": 0.3, "rows": 62, "reason": "macro_f1 0.8727, at least 0.3 asked", "interval": null}]}, "run_id": "cfb920f674734b2d844140b30ecc70ce"}', 'published');
INSERT INTO public.versions VALUES ('climb', 1, 'sha256:35fcd9e37543a3eb31e9e00fca7c20373d3865ea5e009f89d7ef66d646c3086a', 'sha256:472099696208eb5a43144b7201e5fd453b67da278661cac6ddc93257540db9ef', '35fcd9e37543a3eb31e9e00fca7c20373d3865ea5e009f89d7ef66d646c3086a', NULL, 1795738865.378415, '{"dev": {"accuracy": 1.0, "macro_f1": 1.0, "matthews": 1.0, "loss": 0.22495372259794777}, "test": {"accuracy": 0.975, "macro_f1": 0.9765656565656565, "matthews": 0.9628641296516868, "loss": 0.1957584261894226}}', '{"fingerprint": {"source": "255bc36148b464233966336689ded641", "rows": {"train": "sha256:9f1e05b485aa150da9f0f119321b7dfa27e8b588b7e5fd1c7b47e93e594a27cf", "dev": "sha256:d37f1a666d143e5b6f515f1509f506a382c61dbc3b3b8e7288c5be01efa36cd2", "test": "sha256:fe7b446f1f105c4660f7a2e06e1262daff613fd6c062fee8ffa73b25f2d30cc5"}, "config": "sha256:d4209a049b0b657d569c8b7c73fc9a728acf27d281103b21803fa1192c3d012a", "graft": "sha256:0c6c74de4e7bc6cbb001902355c1a7ab8cced0a98802a6f08fbd5ba2036f0f08", "weights_id": "sha256:472099696208eb5a43144b7201e5fd453b67da278661cac6ddc93257540db9ef", "preprocessing_id": "sha256:13a58861e69bc89e1b7e0643802475853c378ae22fa83ae6b278fb4730ba7e5f", "numerics": 1, "gate": "sha256:e4782344113b7426315c9937c2a6e4e1782f876b29dbd6804e6e67273136ba9f"}, "action": "scratch", "reason": "nothing is live that says what it was made from", "changes": {"changes": {"dev": {"added": 67, "removed": 0, "relabelled": 0}, "test": {"added": 40, "removed": 0, "relabelled": 0}, "train": {"added": 113, "removed": 0, "relabelled": 0}}, "rows": {"train": 113, "dev": 67, "test": 40}, "labels_added": ["class0", "class1", "class2"], "labels_removed": [], "drift": [{"what": "embeddings", "effect": null, "notable": false, "rows": [0, 113], "reason": "nothing to compare with"}], "changed": 180, "share": 1.0}, "predicted": {"cpu_seconds": null, "joules": {"quality": "unavailable", "value": null, "low": null, "high": null, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}, "measured": {"wall_seconds": 1.431, "cpu_seconds": 1.8, "peak_bytes": 245043200, "flops": 258089216.0, "bytes_moved": 59881728.0, "watts": 7.55, "joules": {"quality": "modelled", "value": 10.8, "low": 3.6, "high": 27.0, "source": "CPU seconds times 2/6/15 W per busy core"}, "quality": "measured_counter"}, "rows_computed": 0, "gate": {"verdict": "PASS", "split": "dev", "champion": null, "rows": {"all rows": 67, "1 to 16 tokens": 67, "17 to 32 tokens": 0, "33 to 64 tokens": 0, "label class0": 23, "label class1": 20, "label class2": 24}, "candidate": {"accuracy": 1.0, "macro_f1": 1.0, "matthews": 1.0, "loss": 0.22495369413005772}, "champion_metrics": {"accuracy": 0.34328358208955223, "macro_f1": 0.17037037037037037, "matthews": 0.0, "loss": 656716448.4776119}, "checks": [{"name": "accuracy against the majority label", "verdict": "PASS", "found": 0.6567164179104478, "asked": 0.0, "rows": 67, "reason": "gain +0.6567 (+0.5672 to +0.7463), above 0 asked", "interval": [0.5671641791044777, 0.7462686567164178]}]}, "run_id": "184ccb172961490a91c34e4cd6fa48db"}', 'published');
INSERT INTO public.versions VALUES ('aspects', 1, 'sha256:d36644a81b72cae9cb4a018ef9d56c6be0572b6e74ca6cba8da1d16d14278556', 'sha256:472099696208eb5a43144b7201e5fd453b67da278661cac6ddc93257540db9ef', 'd36644a81b72cae9cb4a018ef9d56c6be0572b6e74ca6cba8da1d16d14278556', NULL, 1795738867.431562, '{"dev": {"accuracy": 0.46, "macro_f1": 0.8440720569752828, "micro_f1": 0.8449197860962567, "average_precision": 0.9550050896318613, "loss": 1.3589407348632812}, "test": {"accuracy": 0.25, "macro_f1": 0.7507122507122507, "micro_f1": 0.7515923566878981, "average_precision": 0.909038958221824, "loss": 1.5225654602050782}}', '{"fingerprint": {"source": "8d0dd64e1055a71aeac80045fbfe31ef", "rows": {"train": "sha256:20b8356d6a9bb305aae0ab421ddce72aa41fcce3ae5e7f4193dfde564123c17c", "dev": "sha256:e7509184ed959f3eee3171d2ab74d00884e45cef60e924701177a497d45e4163", "test": "sha256:ac3079c6772cd156cb213ec54baf13e305d1ce8cad1c01e16d6c0f84fd54dbf5"}, "config": "sha256:d8eafec046eb50ebb75bdf8deaa60838d91061c3b0d4c0745947ba29900b928a", "graft": "sha256:f7cec825b31c0595ed4c84bdfb436bd0689f86743b5a16a4d7c2676794e57e57", "weights_id": "sha256:472099696208eb5a43144b7201e5fd453b67da278661cac6ddc93257540db9ef", "preprocessing_id": "sha256:13a58861e69bc89e1b7e0643802475853c378ae22fa83ae6b278fb4730ba7e5f", "numerics": 1, "gate": "sha256:9d363577925c2b35d2d963ef6da5a631a93b27e5a351b935d3eadc2dc1225110"}, "action": "scratch", "reason": "nothing is live that says what it was made from", "changes": {"changes": {"dev": {"added": 50, "removed": 0, "relabelled": 0}, "test": {"added": 40, "removed": 0, "relabelled": 0}, "train": {"added": 70, "removed": 0, "relabelled": 0}}, "rows": {"train": 70, "dev": 50, "test": 40}, "labels_added": ["class0", "class1", "class2"], "labels_removed": [], "drift": [{"what": "embeddings", "effect": null, "notable": false, "rows": [0, 70], "reason": "nothing to compare with"}], "changed": 120, "share": 1.0}, "predicted": {"cpu_seconds": null, "joules": {"quality": "unavailable", "value": null, "low": null, "high": null, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}, "source": "no earlier run of this kind; --max-price and --dry-run time the plan"}, "measured": {"wall_seconds": 1.813, "cpu_seconds": 2.13, "peak_bytes": 393584640, "flops": 907382016.0, "bytes_moved": 227132672.0, "watts": 7.05, "joules": {"quality": "modelled", "value": 12.78, "low": 4.26, "high": 31.95, "source": "CPU seconds times 2/6/15 W per busy core"}, "quality": "measured_counter"}, "rows_computed": 70, "gate": {"verdict": "PASS", "split": "dev", "champion": null, "rows": {"all rows": 50, "1 to 16 tokens": 17, "17 to 32 tokens": 26, "33 to 64 tokens": 7, "label class0": 31, "label class1": 27, "label class2": 24}, "candidate": {"accuracy": 0.46, "macro_f1": 0.8440720569752828, "micro_f1": 0.8449197860962567, "average_precision": 0.9550050896318613, "loss": 1.3589407348632812}, "champion_metrics": {"accuracy": 0.14, "macro_f1": 0.44998244998245, "micro_f1": 0.5604395604395604, "average_precision": 0.5466666666666667, "loss": 1599999836.16}, "checks": [{"name": "macro_f1 against the majority label", "verdict": "PASS", "found": 0.39408960699283274, "asked": 0.0, "rows": 50, "reason": "gain +0.3941 (+0.3505 to +0.4443), above 0 asked", "interval": [0.3504973384441212, 0.44430191861230944]}]}, "run_id": "0a4c940502e34031b62bf1141ed6129d"}', 'published');


--
-- Name: measurements_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.measurements_id_seq', 8, true);


--
-- Name: schema_version_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.schema_version_seq', 1, false);


--
-- Name: backbones backbones_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.backbones
    ADD CONSTRAINT backbones_pkey PRIMARY KEY (weights_id);


--
-- Name: leases leases_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (task);


--
-- Name: live live_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.live
    ADD CONSTRAINT live_pkey PRIMARY KEY (task);


--
-- Name: measurements measurements_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.measurements
    ADD CONSTRAINT measurements_pkey PRIMARY KEY (id);


--
-- Name: promotions promotions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.promotions
    ADD CONSTRAINT promotions_pkey PRIMARY KEY (task, generation);


--
-- Name: runs runs_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.runs
    ADD CONSTRAINT runs_pkey PRIMARY KEY (run_id);


--
-- Name: schema schema_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.schema
    ADD CONSTRAINT schema_pkey PRIMARY KEY (version);


--
-- Name: versions versions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.versions
    ADD CONSTRAINT versions_pkey PRIMARY KEY (task, number);


--
-- Name: versions versions_task_content_id_key; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.versions
    ADD CONSTRAINT versions_task_content_id_key UNIQUE (task, content_id);


--
-- Name: ix_versions_content_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_versions_content_id ON public.versions USING btree (content_id);


--
-- Name: measurements_by_version; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX measurements_by_version ON public.measurements USING btree (task, version);


--
-- Name: runs_by_task; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX runs_by_task ON public.runs USING btree (task, started_at);


--
-- PostgreSQL database dump complete
--

\unrestrict 7XH1xYfgj9kKQUZA06fQojaK0vhiSyDbJnnXUo4U66Uyp9RiUIUtt1qbnBgasp9

