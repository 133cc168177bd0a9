//! Tests of the sampled answer: built with an ordinary protobuf encoder, read back with the XOR decoder.

use super::*;
use crate::store::transcode::{Entry, LabelRules};
use crate::xor;
use pillion_base::labels::Labels;
use pillion_proto::{prometheus_remote as remote, thanos_types as thanos};
use protobuf::Message;

fn time_series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> remote::TimeSeries {
    let label = |(name, value): &(&str, &str)| remote::Label {
        name: (*name).into(),
        value: (*value).into(),
        ..Default::default()
    };
    let sample =
        |(timestamp, value): &(i64, f64)| remote::Sample { timestamp: *timestamp, value: *value, ..Default::default() };
    remote::TimeSeries {
        labels: labels.iter().map(label).collect(),
        samples: samples.iter().map(sample).collect(),
        ..Default::default()
    }
}

fn body_of(results: Vec<Vec<remote::TimeSeries>>) -> Vec<u8> {
    let result = |timeseries| remote::QueryResult { timeseries, ..Default::default() };
    let response = remote::ReadResponse { results: results.into_iter().map(result).collect(), ..Default::default() };
    snappy(&response.write_to_bytes().unwrap())
}

fn body(series: Vec<remote::TimeSeries>) -> Vec<u8> {
    body_of(vec![series])
}

fn snappy(plain: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(plain).unwrap()
}

fn read_raw(body: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    chunked_series(body, &mut |series| {
        all.push(series.to_vec());
        Ok(())
    })?;
    Ok(all)
}

fn read(body: &[u8]) -> Result<Vec<remote::ChunkedSeries>> {
    Ok(read_raw(body)?.iter().map(|series| remote::ChunkedSeries::parse_from_bytes(series).unwrap()).collect())
}

/// Times and bits of the values of all chunks, each of which is checked against its own minimum and maximum.
fn samples(series: &remote::ChunkedSeries) -> Vec<(i64, u64)> {
    let mut all = Vec::new();
    for chunk in &series.chunks {
        assert_eq!(chunk.type_.value(), 1);
        let mut decoded = Vec::new();
        xor::decode(&chunk.data, &mut decoded).unwrap();
        assert!(decoded.len() <= usize::from(CHUNK_SAMPLES));
        assert_eq!(chunk.min_time_ms, decoded.first().unwrap().time_ms);
        assert_eq!(chunk.max_time_ms, decoded.last().unwrap().time_ms);
        all.extend(decoded.iter().map(|sample| (sample.time_ms, sample.value.to_bits())));
    }
    all
}

fn bits(samples: &[(i64, f64)]) -> Vec<(i64, u64)> {
    samples.iter().map(|(time_ms, value)| (*time_ms, value.to_bits())).collect()
}

fn steady(n_samples: i64) -> Vec<(i64, f64)> {
    (0..n_samples).map(|idx| (1_000 + idx * 15_000, f64::from(i32::try_from(idx).unwrap()))).collect()
}

#[test]
fn samples_come_back_as_they_were() {
    let stale = f64::from_bits(xor::STALE_NAN_BITS);
    let cases: [&[(i64, f64)]; 5] = [
        &[(0, 0.0)],
        &[(-5, 1.5), (-5, f64::NAN), (7, stale)],
        // Protobuf encoders leave -0.0 out as they do 0.0; what is on the wire is 0.0.
        &[(i64::MIN, -1e-300)],
        &[(i64::MAX, f64::INFINITY)],
        &steady(241),
    ];
    let all = cases.iter().enumerate().map(|(idx, case)| time_series(&[("a", &idx.to_string())], case)).collect();
    let got = read(&body(all)).unwrap();
    assert_eq!(got.len(), cases.len());
    for (idx, (series, case)) in got.iter().zip(cases).enumerate() {
        assert_eq!((series.labels[0].name.as_str(), series.labels[0].value.as_str()), ("a", idx.to_string().as_str()));
        assert_eq!(samples(series), bits(case));
    }
    assert_eq!(got[4].chunks.len(), 3);
}

#[test]
fn a_long_series_is_split_at_120_samples() {
    let long = steady(2 * 65_535 + 5);
    let got = read(&body(vec![time_series(&[("a", "1")], &long)])).unwrap();
    assert_eq!(got.len(), 1);
    let counts: Vec<_> = got[0].chunks.iter().map(|chunk| xor::n_samples(&chunk.data).unwrap()).collect();
    assert_eq!(counts.len(), 1093);
    assert!(counts[..1092].iter().all(|count| *count == 120), "{counts:?}");
    assert_eq!(counts[1092], 35);
    assert_eq!(samples(&got[0]), bits(&long));
}

#[test]
fn a_huge_series_comes_in_parts_that_stay_in_order() {
    // Every value has other bits everywhere: about nine bytes a sample.
    let value = |idx: i64| f64::from_bits(idx.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let huge: Vec<_> = (0..300_000).map(|idx| (idx * 1000, value(idx))).collect();
    let parts = read_raw(&body(vec![time_series(&[("a", "1"), ("b", "2")], &huge)])).unwrap();
    assert!((2..6).contains(&parts.len()), "{} parts", parts.len());
    assert!(parts.iter().all(|part| part.len() < limits::MESSAGE_BYTES_TARGET + 4096));
    let parts: Vec<_> = parts.iter().map(|part| remote::ChunkedSeries::parse_from_bytes(part).unwrap()).collect();
    assert!(parts.iter().all(|part| part.labels == parts[0].labels && part.labels.len() == 2));
    assert_eq!(parts.iter().flat_map(samples).collect::<Vec<_>>(), bits(&huge));
}

#[test]
fn the_ordinary_transcoder_takes_it_from_there() {
    let series = read_raw(&body(vec![time_series(&[("a", "1"), ("z", "local")], &steady(121))])).unwrap();
    let rules = LabelRules::new(&Labels::new([("m", "n"), ("z", "ext")]), &[], None);
    let (mut entry, mut out) = (Entry::default(), Vec::new());
    entry.copy(&series[0]);
    assert!(entry.parse(0..series[0].len(), &rules).unwrap());
    entry.encode(&rules, &mut out);
    let series = thanos::Series::parse_from_bytes(&out).unwrap();
    let labels: Vec<_> = series.labels.iter().map(|label| format!("{}={}", label.name, label.value)).collect();
    assert_eq!(labels, ["a=1", "m=n", "z=ext"]);
    assert_eq!((series.chunks[0].min_time, series.chunks[0].max_time), (1_000, 1_786_000));
    assert_eq!((series.chunks[1].min_time, series.chunks[1].max_time), (1_801_000, 1_801_000));
    assert_eq!(series.chunks[1].raw.type_.value(), 0);
}

#[test]
fn series_without_samples_are_left_out() {
    let got = read(&body(vec![
        time_series(&[("a", "1")], &[]),
        time_series(&[("a", "2")], &[(1, 2.0)]),
        time_series(&[("a", "3")], &[]),
    ]));
    let got = got.unwrap();
    assert_eq!((got.len(), got[0].labels[0].value.as_str()), (1, "2"));
    assert_eq!(read(&body(vec![])).unwrap(), []);
}

#[test]
fn native_histograms_are_refused_by_name() {
    for floats in [&[][..], &[(1, 2.0)]] {
        let mut series = time_series(&[("__name__", "rpc_seconds"), ("job", "x")], floats);
        series.histograms.push(vec![1, 2, 3]);
        let err = read(&body(vec![time_series(&[("a", "1")], &[(1, 2.0)]), series])).unwrap_err();
        assert_eq!(err.kind(), Kind::Permanent);
        assert!(
            err.to_string().contains(r#"native histograms of series {__name__="rpc_seconds", job="x"} as"#),
            "{err}"
        );
    }
}

#[test]
fn samples_out_of_order_are_refused_within_a_chunk_and_between_chunks() {
    for n_before in [1, 2, 119, 120, 121, 240] {
        let mut all = steady(n_before);
        let last_ms = all.last().unwrap().0;
        all.push((last_ms - 1, 0.0));
        let err = read(&body(vec![time_series(&[("job", "x")], &all)])).unwrap_err();
        assert_eq!(err.kind(), Kind::Corrupt);
        let expected =
            format!(r#"encode series {{job="x"}}: samples are out of order: {} comes after {last_ms}"#, last_ms - 1);
        assert_eq!(err.to_string(), expected);
    }
}

#[test]
fn exactly_one_result_is_expected() {
    for n_results in [0, 2, 3] {
        let err = read(&body_of(vec![vec![time_series(&[("a", "1")], &[(1, 2.0)])]; n_results])).unwrap_err();
        let expected = format!("unmarshal response: unexpected result size {n_results}");
        assert_eq!((err.kind(), err.to_string()), (Kind::Corrupt, expected));
    }
}

#[test]
fn snappy_bombs_are_refused_by_their_header() {
    // A length of 2^32 - 1, then of one byte past the cap, then within the cap but more than the bytes can hold.
    let err = read(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]).unwrap_err();
    assert_eq!(err.kind(), Kind::Limit);
    assert!(err.to_string().contains("takes 4294967295 bytes, more than 268435456"), "{err}");
    let claim = |len: usize| {
        let mut body = Vec::new();
        wire::put_varint(len as u64, &mut body);
        body
    };
    assert_eq!(read(&claim(PLAIN_BYTES_MAX + 1)).unwrap_err().kind(), Kind::Limit);
    let err = read(&claim(PLAIN_BYTES_MAX)).unwrap_err();
    assert_eq!(err.to_string(), "decompress response: 5 bytes cannot hold the 268435456 that they claim");
    // What compresses best is no bomb.
    let plain = vec![0; 1 << 20];
    let dense = snappy(&plain);
    assert!(dense.len() < 1 << 16);
    assert_eq!(decompressed(&dense, plain.len()).unwrap(), plain);
    assert_eq!(decompressed(&dense, plain.len() - 1).unwrap_err().kind(), Kind::Limit);
}

#[test]
fn long_label_sets_are_cut_where_they_are_quoted() {
    let series = time_series(&[("a", &"é".repeat(400)), ("b", "x")], &[(2, 0.0), (1, 0.0)]);
    let err = read(&body(vec![series])).unwrap_err().to_string();
    assert!(err.len() < 700 && err.contains("éé…}"), "{err}");
}

#[test]
fn fields_may_come_in_any_order_and_unknown_ones_are_passed_by() {
    // Samples before labels; in the sample the time before the value, among fields nobody knows.
    let sample = [0x10, 9, 0x18, 0x80, 1, 0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0x22, 1, 7, 0x2d, 1, 2, 3, 4];
    let mut series = Vec::new();
    wire::put_bytes(2, &sample, &mut series);
    wire::put_bytes(3, b"exemplar", &mut series);
    wire::put_bytes(1, &[0x0a, 1, b'a', 0x12, 1, b'b'], &mut series);
    wire::put_number(9, 1, &mut series);
    let (mut result, mut response) = (Vec::new(), Vec::new());
    wire::put_bytes(1, &series, &mut result);
    wire::put_bytes(1, &result, &mut response);
    wire::put_bytes(2, b"unknown", &mut response);
    let got = read(&snappy(&response)).unwrap();
    assert_eq!(samples(&got[0]), [(9, 1.5_f64.to_bits())]);
    assert_eq!((got[0].labels[0].name.as_str(), got[0].labels[0].value.as_str()), ("a", "b"));
}

#[test]
fn errors_of_the_receiver_end_the_walk() {
    let body = body(vec![time_series(&[("a", "1")], &[(1, 2.0)]); 3]);
    let mut n_calls = 0;
    let err = chunked_series(&body, &mut |_| {
        n_calls += 1;
        Err(Error::new(Kind::Stopped, "the client went away"))
    })
    .unwrap_err();
    assert_eq!((n_calls, err.kind(), err.to_string().as_str()), (1, Kind::Stopped, "the client went away"));
}

#[test]
fn random_answers_survive() {
    for seed in 1..300_u64 {
        println!("seed {seed}");
        let mut state = seed;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut all = Vec::new();
        for idx in 0..random(6) {
            let mut time_ms = i64::try_from(random(1 << 41)).unwrap() - (1 << 40);
            let samples: Vec<_> = (0..random(500))
                .map(|_| {
                    let size = random(30);
                    time_ms += i64::try_from(random(1 << size)).unwrap();
                    let value = if random(2) == 0 { 1.0 } else { f64::from_bits(random(u64::MAX)) };
                    (time_ms, value)
                })
                .collect();
            all.push((format!("{idx}"), samples));
        }
        let got = read(&body(all.iter().map(|(name, s)| time_series(&[("a", name)], s)).collect())).unwrap();
        let expected: Vec<_> = all.iter().filter(|(_, samples)| !samples.is_empty()).collect();
        assert_eq!(got.len(), expected.len());
        for (series, (name, s)) in got.iter().zip(expected) {
            assert_eq!(series.labels[0].value, *name);
            assert_eq!(samples(series), bits(s));
        }
    }
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let good = body(vec![time_series(&[("a", "1"), ("b", "2")], &steady(130)), time_series(&[("c", "3")], &steady(2))]);
    for cut in 0..good.len() {
        let err = read_raw(&good[..cut]).unwrap_err();
        assert_eq!(err.kind(), Kind::Corrupt, "cut at {cut}: {err}");
    }
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        // A flipped bit may be another good answer.
        if let Err(err) = read_raw(&bad) {
            assert!(matches!(err.kind(), Kind::Corrupt | Kind::Limit | Kind::Permanent), "bit {bit}: {err}");
        }
    }
    let plain = snap::raw::Decoder::new().decompress_vec(&good).unwrap();
    for cut in 0..plain.len() {
        assert_eq!(read_raw(&snappy(&plain[..cut])).unwrap_err().kind(), Kind::Corrupt, "plain cut at {cut}");
    }
}
